"""Recognise out-of-memory errors, continue in smaller parts, and free PyTorch's cached memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import HostError

__all__ = ["TEXT_TOO_LARGE", "empty_caches", "in_parts_that_fit", "is_out_of_memory"]

TEXT_TOO_LARGE = "a single prompt does not fit into memory in the text encoder; free memory that other programs use, or use another device"
_Result = TypeVar("_Result")
_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",  # cuBLAS and cuDNN, as the next two
    "cublas_status_not_initialized",
    "unable to find a valid cudnn algorithm",
    "invalid buffer size",  # Metal
    "out_of_device_memory",  # XPU, as the next two
    "out_of_host_memory",
    "out_of_resources",
    "vram grow failed",  # ComfyUI's dynamic VRAM (comfy-aimdo), as the next
    "vram reservation failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is an out-of-memory error, on any device.

    PyTorch 2.4 has no ``torch.OutOfMemoryError``, and MPS, the CPU and cuBLAS raise plain ``RuntimeError``, so the message
    is checked.
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _MESSAGES)


def empty_caches() -> None:
    """Free unused cached memory. Call it outside of the exception handler, which keeps the failed call's tensors alive."""
    gc.collect()  # an exception and its frames may refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if torch.xpu.is_available():
        torch.xpu.empty_cache()


def in_parts_that_fit(compute: Callable[[slice], _Result], rows: int, at_once: int, advice: str) -> list[_Result]:
    """Compute consecutive rows in parts; if memory runs out, continue in parts of half the size.

    Args:
        compute: computes one part, for example the features of some images.
        rows: total number of rows.
        at_once: maximum number of rows per part, at least 1.
        advice: the error's text if a single row does not fit: what does not fit, and what to lower.

    Returns:
        The result of each part, in order.

    Raises:
        HostError: a single row does not fit into memory.
    """
    results: list[_Result] = []
    done = 0
    while done < rows or not results:  # without rows, the result is empty and still has its shape
        part = slice(done, min(done + at_once, rows))
        try:
            results.append(compute(part))
            done = part.stop
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if part.stop - part.start <= 1:
                raise HostError(advice) from error
            at_once = (part.stop - part.start) // 2
        empty_caches()  # outside of the handler, which keeps all tensors of the failed call alive
    return results
