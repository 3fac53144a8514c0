"""Check that the backward pass reads the values that the forward pass saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import HostError

__all__ = ["saved_tensors_verified"]

_SAMPLE = 256
"""Number of compared values per tensor, evenly spread."""


@contextmanager
def saved_tensors_verified() -> Iterator[None]:
    """Compare the tensors that autograd saves in this context with what it reads, bit by bit.

    A host that moves weights in and out of memory may reuse a weight's memory for another layer while autograd refers to
    it. Losses are then correct, but gradients are wrong. The check does not change results, and waits for each
    device once. It does not cover checkpointed blocks, which save nothing between forward and backward pass.

    Raises:
        HostError: a saved tensor was overwritten, so the gradients are wrong.
    """
    overwritten: list[Tensor] = []

    def save(tensor: Tensor) -> tuple[Tensor, Tensor]:
        # detached: an operation that saves its own output, such as attention, would refer to itself, and the memory of a step
        # that fails before its backward pass would never be freed
        return tensor.detach(), _sample(tensor)

    def read(saved: tuple[Tensor, Tensor]) -> Tensor:
        tensor, before = saved
        if before.numel():
            overwritten.append((_sample(tensor) != before).any())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, read):
        yield
    # autograd saves tensors of both devices: a number by which the model multiplies may be on the CPU
    by_device = {each.device: [flag for flag in overwritten if flag.device == each.device] for each in overwritten}
    wrong = sum(int(torch.stack(flags).sum()) for flags in by_device.values())
    if wrong:
        raise HostError(
            f"the model's host overwrote {wrong} of {len(overwritten)} tensors that gradients are computed from, so the gradients "
            "are wrong; start ComfyUI with --disable-dynamic-vram, and please report this"
        )


def _sample(tensor: Tensor) -> Tensor:
    """Some of the tensor's values as bytes, so that NaN equals NaN."""
    with torch.no_grad():
        flat = tensor.detach().flatten()
        return flat[:: max(1, len(flat) // _SAMPLE)].clone().view(torch.uint8)
