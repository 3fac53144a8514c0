"""Under dynamic VRAM, forget the transfer of a weight when memory runs out before the operation has the weight.

ComfyUI (0.28.0 to 0.33.0) notes a transfer in the operation, and removes the note once the weight is cast. If memory runs out in
between, the note stays, and all later calls, also those of ComfyUI's sampler, take the weight from where the note says: from a buffer that holds
another layer's weight by then, or that is freed. Seen on a card with 11 GB free: wrong tokens without an error, then an
illegal memory access in KSampler.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from torch import nn

from .private_names import TRANSFER, is_paged

__all__ = ["failed_transfers_forgotten"]


@contextmanager
def failed_transfers_forgotten(model: nn.Module) -> Iterator[None]:
    """Context in which an operation of ``model`` that fails leaves no transfer behind; earlier ones are forgotten at its start."""
    with ExitStack() as hooks:
        for module in filter(is_paged, model.modules()):
            _forget_transfer(module)
            hooks.callback(module.register_forward_hook(_forget_transfer, always_call=True).remove)
        yield


def _forget_transfer(module: Any, *_: Any) -> None:
    transfer = vars(module).pop(TRANSFER, None)
    if transfer is None:
        return
    for name in ("weight", "bias"):
        patch = getattr(module, f"{name}_lowvram_function", None)  # of a LoRA
        if patch is not None:
            patch.clear_prepared()
    if transfer["signature"] is not None:  # its pages are pinned
        import_module("comfy_aimdo.model_vbar").vbar_unpin(module._v)
