"""The nodes of MC-TI for ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

__all__ = ["MCTIExtension", "comfy_entrypoint"]


class MCTIExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .classify import Classify, Evaluate
        from .examples import AddExamples, ExamplesFromFolder
        from .folders import register_token_folder
        from .loaders import LoadClipSpace, LoadPocket
        from .prompts import TokenPrompts
        from .route import Route
        from .token_files import LoadTokens, SaveTokens
        from .train import TrainTokens

        register_token_folder()
        return [
            LoadPocket, ExamplesFromFolder, AddExamples, LoadClipSpace, TrainTokens, SaveTokens, LoadTokens,
            Classify, Evaluate, TokenPrompts, Route,
        ]  # fmt: skip


async def comfy_entrypoint() -> MCTIExtension:
    """Entry point that ComfyUI calls when it loads the pack."""
    return MCTIExtension()
