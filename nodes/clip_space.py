"""Node that loads a CLIP space: vision tower, visual projection and text projection from one file."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..mcti_core.errors import HostError
from .checking import Node
from .schema import node_schema
from .types import ClipSpaceType

__all__ = ["LoadClipSpace"]


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
