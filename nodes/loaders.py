"""Nodes that load models: Load Pocket Checkpoint, Load CLIP Space."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..mcti_core.errors import HostError
from .checking import Node
from .examples import split
from .schema import node_schema
from .types import ClipSpaceType, ExamplesType

__all__ = ["LoadClipSpace", "LoadPocket"]


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


class LoadClipSpace(Node):
    LOOKED_UP = frozenset({"clip_file"})

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_LoadClipSpace",
            search_aliases=["clip vision", "image encoder", "load clip"],
            inputs=[io.Combo.Input("clip_file", options=folder_paths.get_filename_list("clip_vision"))],
            outputs=[ClipSpaceType.Output("clip_space")],
        )

    @classmethod
    def execute(cls, clip_file: str) -> io.NodeOutput:
        from ..mcti_core.hosts.comfy.clip_space import load_clip_file

        path = folder_paths.get_full_path("clip_vision", clip_file)
        if path is None:
            raise HostError(f"there is no file {clip_file!r} in models/clip_vision; choose an existing one")
        return io.NodeOutput(load_clip_file(path))
