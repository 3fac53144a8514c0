"""Node that gives the pocket checkpoint: the whole pack runs with it, without a download, on a CPU."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from .checking import Node
from .examples import split
from .running import working
from .schema import node_schema
from .types import CATEGORY, ClipSpaceType, ExamplesType

__all__ = ["LoadPocket"]


class LoadPocket(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_Pocket",
            display_name="Load Pocket Checkpoint",
            category=CATEGORY,
            description=(
                "Load a tiny Stable Diffusion of coloured handwriting (64 x 64 pixels) that comes with this pack, and real handwritten digits "
                "that it has never seen. Try everything with it in minutes, without a download and without a GPU."
            ),
            search_aliases=["demo", "tiny model", "checkpoint", "textual inversion"],
            inputs=[
                io.Int.Input(
                    "shots",
                    default=5,
                    min=1,
                    max=100,
                    tooltip="Images per digit to learn from; the others are held out for testing.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="Selects which images are examples and which are held out.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model", display_name="MODEL", tooltip="The diffusion model; the stock KSampler takes it too."
                ),
                io.Clip.Output("clip", display_name="CLIP", tooltip="The text encoder."),
                io.Vae.Output("vae", display_name="VAE", tooltip="The autoencoder; the stock VAE Decode takes it too."),
                ClipSpaceType.Output("clip_space", display_name="CLIP space", tooltip="The image side of its CLIP."),
                ExamplesType.Output(
                    "examples", display_name="examples", tooltip="Images of the digits 0 to 9 to learn from."
                ),
                ExamplesType.Output(
                    "held_out", display_name="held-out examples", tooltip="All other digits, to test on."
                ),
                io.Image.Output("sheet", display_name="contact sheet", tooltip="The examples, one row per class."),
            ],
        )

    @classmethod
    def execute(cls, shots: int, seed: int) -> io.NodeOutput:
        from ..mcti_core.hosts.comfy.pocket import load_pocket_parts
        from ..mcti_core.pocket import POCKET_FOLDER
        from ..mcti_core.pocket.digits import digit_dataset

        with working():
            parts = load_pocket_parts(POCKET_FOLDER, folder_paths.get_folder_paths("embeddings"))
            examples = split(digit_dataset(), shots, seed, 64)
            return io.NodeOutput(parts.model, parts.clip, parts.vae, parts.clip_file, *examples)
