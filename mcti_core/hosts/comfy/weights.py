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

from ..patching import patched
from .private_names import OPERATION, is_paged

__all__ = ["trainable_through"]

_COMPUTE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Dtypes that operations compute in. For others, such as float8, an operation makes a copy in one of these, or multiplies in
eight bits, which has no backward."""


@contextmanager
def trainable_through(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Context in which backward runs through a loaded ComfyUI model to its inputs; no weight requires gradients.

    Args:
        model: of a ``ModelPatcher``, loaded.
        device: the device that it computes on.
    """
    with ExitStack() as changes:
        for module in model.modules():
            moved = _is_moved_on_use(module, device)
            if moved and not isinstance(module, nn.Embedding):  # backward does not need the table
                for name in OPERATION:
                    changes.enter_context(patched(vars(module), name, [*getattr(module, name), _private_copy]))
            stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for weights in stores:
                for name, weight in list(weights.items()):
                    if _is_plain(weight) and not (moved and name in ("weight", "bias")):
                        changes.enter_context(patched(weights, name, _alias(weight)))
        yield


def _is_moved_on_use(module: Any, device: torch.device) -> bool:
    """Whether it is one of ComfyUI's operations (``comfy.ops``), and moves or casts its weights at each call."""
    if not all(hasattr(module, name) for name in OPERATION):
        return False
    if is_paged(module):
        return True
    weights = (getattr(module, "weight", None), getattr(module, "bias", None))
    return any(
        not _is_plain(weight) or weight.device != device or weight.dtype not in _COMPUTE_DTYPES
        for weight in weights
        if weight is not None
    )


def _is_plain(weight: Any) -> bool:
    """Whether it is a plain tensor, not a subclass such as a quantised tensor."""
    return type(weight) in (nn.Parameter, Tensor)


def _private_copy(weight: Tensor) -> Tensor:
    """A weight in memory that nothing else writes to, for backward."""
    return weight.detach().clone() if torch.is_grad_enabled() else weight


def _alias(weight: Tensor) -> Tensor:
    """A frozen tensor on the same memory, outside of inference mode."""
    with torch.inference_mode(False):
        alias = torch.empty(0, dtype=weight.dtype, device=weight.device)
        alias.set_(weight.untyped_storage(), weight.storage_offset(), weight.size(), weight.stride())
        return nn.Parameter(alias, requires_grad=False) if isinstance(weight, nn.Parameter) else alias
