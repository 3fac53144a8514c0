"""Borrow the host's models: loaded by its own memory manager, usable in backward, and given back as they were.

A host's weights cannot be trained through as they are. Loader nodes make them in inference mode, so that autograd refuses
them; some ask for gradients that nobody wants; and CLIP's layers add in place. During a session with gradients every weight
is therefore replaced by an alias: another tensor on the same memory, without the mark of inference mode, frozen. Nothing is
copied, and what was replaced is put back, object by object, whatever happens in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import comfy.clip_model
import comfy.model_management
import torch
from torch import Tensor, nn

from ..checkpointing import checkpointed

__all__ = ["Residency"]

_BLOCKS = ("ResBlock", "BasicTransformerBlock")
"""Of the host's UNets; between them little is kept for backward. SDXL's ``SpatialTransformer`` holds up to ten such blocks in a
row: computed again as a whole, it would have what all ten keep in memory at once. Stable Diffusion 3's blocks checkpoint
themselves."""
_ALL_OF_IT = 1e20
"""More memory than there is: the host then moves every model that is not needed out of the way."""


class Residency:
    """Which of the host's models are needed now, over nested sessions.

    Args:
        patchers: the host's ``ModelPatcher`` of each part: "text", "denoiser", "clip".
    """

    def __init__(self, patchers: Mapping[str, Any]):
        self._patchers = patchers
        self._open: list[tuple[frozenset[str], bool, bool]] = []
        """Parts, gradients and checkpointing of every session, the outermost first."""
        self._borrowed = ExitStack()
        self._held = False

    @contextmanager
    def session(self, *parts: str, gradients: bool = False, checkpointing: bool = False) -> Iterator[None]:
        """``hosts.base.Session``. The codec is not among the parts: the host's VAE loads itself."""
        wanted = frozenset(parts) & self._patchers.keys()
        here, trained, saved = self._needed()
        self._open.append((wanted, gradients, checkpointing))
        try:
            if not wanted <= here or (gradients and not trained) or (checkpointing and not saved):
                self._give_back()
                self._take()
            yield
        finally:
            self._open.pop()
            if not self._open:
                self._give_back()
                if gradients:
                    comfy.model_management.soft_empty_cache()  # what backward held, the host may want for its next node
            elif not self._held:  # what this session wanted could not be had: the outer ones go on with theirs
                self._take()

    @contextmanager
    def interlude(self) -> Iterator[None]:
        """Everything given back while the host does something of its own that may move models about."""
        self._give_back()
        try:
            yield
        finally:
            if self._open:
                self._take()

    def _needed(self) -> tuple[frozenset[str], bool, bool]:
        parts = frozenset[str]().union(*(wanted for wanted, _, _ in self._open))
        return (
            parts,
            any(gradients for _, gradients, _ in self._open),
            any(checkpointing for _, _, checkpointing in self._open),
        )

    def _take(self) -> None:
        parts, gradients, checkpointing = self._needed()
        patchers = [self._patchers[part] for part in sorted(parts)]
        with torch.inference_mode():  # as the host itself would load them
            comfy.model_management.load_models_gpu(
                patchers, memory_required=_ALL_OF_IT if gradients else 0, force_full_load=gradients
            )
        for patcher in patchers:
            patcher.pre_run()
            self._borrowed.callback(patcher.cleanup)
            if gradients:
                self._borrowed.enter_context(_aliased(patcher.model))
                self._borrowed.enter_context(_adding_out_of_place(patcher.model))
            if checkpointing:
                self._borrowed.enter_context(checkpointed(_blocks(patcher.model)))
        self._held = True

    def _give_back(self) -> None:
        self._held = False
        self._borrowed.close()


@contextmanager
def _aliased(model: nn.Module) -> Iterator[None]:
    """Every parameter and buffer replaced by a frozen alias; quantised weights, which are of other classes, stay."""
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module in model.modules():
            stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for weights in stores:
                for name, weight in list(weights.items()):
                    if type(weight) in (nn.Parameter, Tensor):
                        replaced.append((weights, name, weight))
                        weights[name] = _alias(weight)
        yield
    finally:
        for weights, name, weight in replaced:
            weights[name] = weight


def _alias(weight: Tensor) -> Tensor:
    with torch.inference_mode(False):
        alias = torch.empty(0, dtype=weight.dtype, device=weight.device)
        alias.set_(weight.untyped_storage(), weight.storage_offset(), weight.size(), weight.stride())
        return nn.Parameter(alias, requires_grad=False) if isinstance(weight, nn.Parameter) else alias


def _blocks(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__ in _BLOCKS]


@contextmanager
def _adding_out_of_place(model: nn.Module) -> Iterator[None]:
    """CLIP's layers with ``x = x + ...`` for ``x += ...``, which overwrites what backward needs. The numbers are the same."""
    stock = [
        layer for layer in model.modules() if type(layer) is comfy.clip_model.CLIPLayer and "forward" not in vars(layer)
    ]
    try:
        for layer in stock:
            layer.forward = MethodType(_clip_layer, layer)  # type: ignore[method-assign]
        yield
    finally:
        for layer in stock:
            vars(layer).pop("forward", None)


def _clip_layer(self: Any, x: Tensor, mask: Tensor | None = None, optimized_attention: Any = None) -> Tensor:
    x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
    return x + self.mlp(self.layer_norm2(x))
