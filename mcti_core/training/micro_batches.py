"""Compute a batch's losses in parts, with the graph of only one part in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..hosts.features import Features

__all__ = ["in_micro_batches"]

_Losses = Callable[[slice, Mapping[str, Features]], Tensor]
"""Rows of the batch, and their text features -> one loss per row."""


def in_micro_batches(losses: _Losses, text: Mapping[str, Features], size: int) -> Tensor:
    """``losses(slice(None), text)`` and its gradient, with at most ``size`` rows in memory at a time.

    A row's loss does not depend on other rows' features. So each part's gradient is computed in the forward pass,
    right after its losses, which frees its graph; the backward pass only scales the rows.

    Gradients flow to the ``tensors()`` of the text features of B prompts. Returns (B,) float32.
    """
    tensors = [tensor for features in text.values() for tensor in features.tensors().values()]
    result: Tensor = _InParts.apply(losses, text, size, *tensors)  # type: ignore[no-untyped-call]
    return result


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: _Losses, text: Mapping[str, Features], size: int, *tensors: Tensor) -> Tensor:
        values, gradients = [], []
        for start in range(0, len(tensors[0]), size):
            part = slice(start, start + size)
            leaves = [tensor[part].detach().requires_grad_() for tensor in tensors]
            unused = iter(leaves)
            part_text = {
                key: features.rows(part).with_tensors({name: next(unused) for name in features.tensors()})
                for key, features in text.items()
            }
            with torch.enable_grad():
                loss = losses(part, part_text)
                found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
            values.append(loss.detach())
            gradients.append([torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)])
        ctx.save_for_backward(*(torch.cat(parts) for parts in zip(*gradients, strict=True)))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = upstream  # (B,)
        return None, None, None, *(g * weight.view(-1, *[1] * (g.ndim - 1)) for g in ctx.saved_tensors)
