"""Node that loads the pocket checkpoint, with which the whole pack runs on a CPU without a download."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from .checking import Node
from .examples import split
from .schema import node_schema
from .types import ClipSpaceType, ExamplesType

__all__ = ["LoadPocket"]


class LoadPocket(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_Pocket",
            search_aliases=["demo", "tiny model", "checkpoint", "textual inversion"],
            inputs=[
                io.Int.Input("shots", default=5, min=1, max=100),
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1, control_after_generate=False),
            ],
            outputs=[
                io.Model.Output("model"),
                io.Clip.Output("clip"),
                io.Vae.Output("vae"),
                ClipSpaceType.Output("clip_space"),
                ExamplesType.Output("examples"),
                ExamplesType.Output("held_out"),
                io.Image.Output("sheet"),
            ],
        )

    @classmethod
    def execute(cls, shots: int, seed: int) -> io.NodeOutput:
        from ..mcti_core.hosts.comfy.pocket import load_pocket_parts
        from ..mcti_core.pocket import POCKET_FOLDER
        from ..mcti_core.pocket.digits import digit_dataset

        parts = load_pocket_parts(POCKET_FOLDER, folder_paths.get_folder_paths("embeddings"))
        examples = split(digit_dataset(), shots, seed, 64)
        return io.NodeOutput(parts.model, parts.clip, parts.vae, parts.clip_file, *examples)
