"""A check that backward reads what forward saved: the gradient of a step is that of its own weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import HostError

__all__ = ["saved_tensors_verified"]

_SAMPLE = 256
"""Numbers of a tensor that are compared, evenly spread."""

Sample = tuple[Tensor, Tensor]
"""A saved tensor and what it held then."""


@contextmanager
def saved_tensors_verified() -> Iterator[None]:
    """Inside, forward and backward of one step: what autograd saves is compared, bit by bit, with what it later reads.

    A host that moves weights in and out of memory may use a weight's memory again for another layer while autograd holds
    it. Losses are right then and gradients are not. Numbers do not change by the check; the device is waited for once.
    Inside of checkpointed blocks, which save nothing between forward and backward, nothing is compared.

    Raises:
        HostError: something was overwritten in between; the gradients must not be used.
    """
    overwritten: list[Tensor] = []

    def save(tensor: Tensor) -> Sample:
        return tensor, _sampled(tensor)

    def read(saved: Sample) -> Tensor:
        tensor, before = saved
        if before.numel():
            overwritten.append((_sampled(tensor) != before).any())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, read):
        yield
    wrong = int(torch.stack(overwritten).sum()) if overwritten else 0
    if wrong:
        raise HostError(
            f"the model's host overwrote {wrong} of {len(overwritten)} tensors that gradients are computed from, so tokens "
            "would be learned from wrong gradients; start ComfyUI with --disable-dynamic-vram, and please report this"
        )


def _sampled(tensor: Tensor) -> Tensor:
    """A few of the tensor's numbers as bytes, so that NaN equals NaN."""
    with torch.no_grad():
        flat = tensor.detach().flatten()
        return flat[:: max(1, len(flat) // _SAMPLE)].clone().view(torch.uint8)
