"""Use ComfyUI's models: load them with its own memory manager, make them usable in backward, and restore them afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from torch import nn

from ...tokens.encoders import CLIP_FOR_CLASSIFYING
from ..checkpointing import checkpointed
from ..patching import patched
from .failed_transfers import failed_transfers_forgotten
from .out_of_place import out_of_place
from .private_names import check_patcher
from .weights import trainable_through

__all__ = ["Residency"]

_UNET_BLOCKS = ("ResBlock", "BasicTransformerBlock")
"""Names of the UNet blocks to checkpoint. SDXL's ``SpatialTransformer`` contains up to ten such blocks in a row: recomputed as a
whole, it would keep the activations of all ten in memory at once."""
_ALL_MEMORY = 1e20
"""More memory than any device has: ComfyUI then unloads every model that is not needed."""


class Residency:
    """The ComfyUI models that are currently needed, over nested sessions.

    Args:
        patchers: ComfyUI's ``ModelPatcher`` of each part: "text", "denoiser", "clip", and ``CLIP_FOR_CLASSIFYING``, which is loaded with "text".
    """

    def __init__(self, patchers: Mapping[str, Any]):
        self._patchers = patchers
        self._open: list[tuple[frozenset[str], bool, bool]] = []
        """Parts, gradients and checkpointing of every session, the outermost first."""
        self._contexts = ExitStack()
        self._acquired = False

    @contextmanager
    def session(self, *parts: str, gradients: bool = False, checkpointing: bool = False) -> Iterator[None]:
        """``hosts.base.Session``. The codec is not a part, since ComfyUI's VAE loads itself."""
        part_names = frozenset((*parts, *([CLIP_FOR_CLASSIFYING] if "text" in parts else []))) & self._patchers.keys()
        loaded, trained, saved = self._needed()
        self._open.append((part_names, gradients, checkpointing))
        try:
            if not part_names <= loaded or (gradients and not trained) or (checkpointing and not saved):
                self._release()
                self._acquire()
            yield
        finally:
            self._open.pop()
            if not self._open:
                self._release()
                if gradients:
                    comfy.model_management.soft_empty_cache()  # the next node may need the memory of the backward pass
            elif not self._acquired:  # this session's models could not be loaded: restore those of the outer sessions
                self._acquire()

    @contextmanager
    def interlude(self) -> Iterator[None]:
        """Restore all models while ComfyUI does something that may move models."""
        self._release()
        try:
            yield
        finally:
            if self._open:
                self._acquire()

    def _needed(self) -> tuple[frozenset[str], bool, bool]:
        """Parts, gradients and checkpointing over all open sessions."""
        parts = frozenset[str]().union(*(parts for parts, _, _ in self._open))
        return parts, any(gradients for _, gradients, _ in self._open), any(saves for _, _, saves in self._open)

    def _acquire(self) -> None:
        parts, gradients, checkpointing = self._needed()
        patchers = [self._patchers[part] for part in sorted(parts)]
        with torch.inference_mode():  # as ComfyUI itself loads them
            comfy.model_management.load_models_gpu(
                patchers, memory_required=_ALL_MEMORY if gradients else 0, force_full_load=gradients
            )
        if gradients and hasattr(comfy.model_management, "in_training"):
            # since v0.16.0: ComfyUI's models then avoid operations without backward
            self._contexts.enter_context(patched(vars(comfy.model_management), "in_training", True))
        for patcher in patchers:
            patcher.pre_run()  # as ComfyUI's samplers do; nodes hang callbacks on it, and on cleanup
            self._contexts.callback(patcher.cleanup)
            self._contexts.enter_context(failed_transfers_forgotten(patcher.model))
            if gradients:
                check_patcher(patcher)
                self._contexts.enter_context(trainable_through(patcher.model, patcher.load_device))
            if checkpointing:
                self._contexts.enter_context(checkpointed(_blocks(patcher.model), out_of_place))
        self._acquired = True

    def _release(self) -> None:
        self._acquired = False
        self._contexts.close()


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks to checkpoint: in a UNet by class name; in other diffusion models the elements of module lists, which are the layers."""
    network = getattr(model, "diffusion_model", None)
    if network is None:
        return []
    if hasattr(network, "input_blocks"):
        return [module for module in network.modules() if type(module).__name__ in _UNET_BLOCKS]
    return [block for own in network.children() if isinstance(own, nn.ModuleList) for block in own]
