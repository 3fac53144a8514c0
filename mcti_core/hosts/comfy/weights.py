"""Make ComfyUI's weights usable in backward for the duration of a session.

Gradients cannot flow through them unchanged. Loader nodes create them in inference mode, which autograd refuses; and some require
gradients that are not wanted. Weights that stay on the device for the whole session are
therefore replaced by frozen aliases: other tensors on the same memory, outside of inference mode. Nothing is copied.

Other weights are moved to the device only when an operation needs them: those of ComfyUI's dynamic VRAM (the default on NVIDIA
cards since v0.16.0), offloaded weights, and quantised weights. They are cast into memory that ComfyUI reuses for the next
layer, while autograd still needs it for backward: gradients would be wrong without any error. Such operations get their own
copy for as long as autograd needs it.

Afterwards every object is restored, also after an exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .private_names import is_paged

__all__ = ["trainable_through"]

_COMPUTE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Dtypes that operations compute in. For others, such as float8, an operation makes a copy in one of these, or multiplies in
eight bits, which has no backward."""
_MISSING = object()


@contextmanager
def trainable_through(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Context in which backward runs through a loaded ComfyUI model to its inputs; no weight requires gradients.

    Args:
        model: of a ``ModelPatcher``, loaded.
        device: the device that it computes on.
    """
    with ExitStack() as changes:
        for module in model.modules():
            if _casts(module) and _is_moved_on_use(module, device):
                changes.enter_context(_private_copies(module))
                changes.enter_context(_aliased(module, but=("weight", "bias")))
            else:
                changes.enter_context(_aliased(module))
        yield


def _casts(module: nn.Module) -> bool:
    """Whether it is one of ComfyUI's operations (``comfy.ops``), which apply functions to weights before use."""
    return hasattr(module, "weight_function") and hasattr(module, "bias_function")


def _is_moved_on_use(module: Any, device: torch.device) -> bool:
    if is_paged(module):
        return True
    weights = [
        weight for weight in (getattr(module, "weight", None), getattr(module, "bias", None)) if weight is not None
    ]
    return any(
        not _is_plain(weight) or weight.device != device or weight.dtype not in _COMPUTE_DTYPES for weight in weights
    )


def _is_plain(weight: Any) -> bool:
    """Whether it is a plain tensor, not a subclass such as a quantised tensor."""
    return type(weight) in (nn.Parameter, Tensor)


@contextmanager
def _private_copies(module: Any) -> Iterator[None]:
    """Make the operation compute with memory that nothing else writes to."""
    attributes = vars(module)
    names = (
        () if isinstance(module, nn.Embedding) else ("weight_function", "bias_function")
    )  # backward does not need the table
    before = {name: attributes.get(name, _MISSING) for name in names}
    try:
        for name in names:
            setattr(module, name, [*getattr(module, name), _private_copy])
        yield
    finally:
        for name, functions in before.items():
            if functions is _MISSING:
                attributes.pop(name, None)
            else:
                attributes[name] = functions


def _private_copy(weight: Tensor) -> Tensor:
    return weight.detach().clone() if torch.is_grad_enabled() else weight


@contextmanager
def _aliased(module: nn.Module, but: tuple[str, ...] = ()) -> Iterator[None]:
    """Replace the module's own parameters and buffers by frozen aliases, except some and except tensor subclasses."""
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for weights in stores:
            for name, weight in list(weights.items()):
                if _is_plain(weight) and name not in but:
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
