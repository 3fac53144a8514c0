"""The graphics card of ``on_gpu``, of which most memory can be reserved."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["Card"]

GB = 1e9
CONTEXT = 0.5 * GB
"""What CUDA itself takes of a card in a server that has started, and that is not free on a small card either."""


class Card:
    """Says on entry which card it is."""

    def __enter__(self) -> Card:
        free, whole = torch.cuda.mem_get_info()
        properties = torch.cuda.get_device_properties(0)
        print(
            f"{properties.name}, {whole / GB:.1f} GB, {free / GB:.1f} free; PyTorch {torch.__version__}, CUDA {torch.version.cuda}",
            flush=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @contextmanager
    def all_but(self, size: float) -> Iterator[int]:
        """Leave what a card of ``size`` GB has for a server that has started. Yields the bytes that are free."""
        free, whole = torch.cuda.mem_get_info()
        print(f"{(whole - free) / GB:.2f} GB in use before the card is made {size:g} GB small", flush=True)
        taken = int(free - size * GB + CONTEXT)
        if taken <= 0:
            raise ValueError(f"only {free / GB:.1f} GB are free, so no card of {size:g} GB can be imitated")
        held = torch.empty(taken, dtype=torch.uint8, device="cuda")
        try:
            yield torch.cuda.mem_get_info()[0]
        finally:
            del held
            gc.collect()
            torch.cuda.empty_cache()
