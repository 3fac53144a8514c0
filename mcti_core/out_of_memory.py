"""Recognise that memory has run out, and give back what PyTorch keeps for later."""

from __future__ import annotations

import torch

__all__ = ["empty_caches", "is_out_of_memory"]

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is an error of too little memory, on any device.

    PyTorch 2.4 has no ``torch.OutOfMemoryError``, and MPS, the CPU and cuBLAS raise plain ``RuntimeError``: the text tells.
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def empty_caches() -> None:
    """Give back memory that is kept but not used. Call it outside of the handler, which holds on to what failed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if torch.xpu.is_available():
        torch.xpu.empty_cache()
