"""Compute a batch's losses in parts, with the graph of only one part in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..hosts.features import Features

__all__ = ["Losses", "in_micro_batches"]

Losses = Callable[[slice, Mapping[str, Features]], Tensor]
"""Rows of the batch, and their text features -> one loss per row."""


def in_micro_batches(losses: Losses, text: Mapping[str, Features], size: int) -> Tensor:
    """``losses(slice(None), text)`` and its gradient, with at most ``size`` rows in memory at a time.

    A row's loss does not depend on other rows' features. So each part's gradient is computed in the forward pass,
    right after its losses, which frees its graph; the backward pass only scales the rows.

    Args:
        losses: called once per part.
        text: features of B prompts; gradients flow to their ``tensors()``.
        size: rows per part.

    Returns:
        (B,) float32.
    """
    names, rows = _rows(text)
    result: Tensor = _InParts.apply(losses, text, names, size, *rows)  # type: ignore[no-untyped-call]
    return result


def _rows(text: Mapping[str, Features]) -> tuple[list[tuple[str, str]], list[Tensor]]:
    """The tensors that gradients flow to, with their keys and names."""
    there = {(key, name): tensor for key, features in text.items() for name, tensor in features.tensors().items()}
    return list(there), list(there.values())


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        losses: Losses,
        text: Mapping[str, Features],
        names: list[tuple[str, str]],
        size: int,
        *rows: Tensor,
    ) -> Tensor:
        values, gradients = [], []
        for start in range(0, len(rows[0]), size):
            part = slice(start, start + size)
            leaves = [row[part].detach().requires_grad_() for row in rows]
            with torch.enable_grad():
                loss = losses(part, _with(text, part, names, leaves))
                found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
            values.append(loss.detach())
            gradients.append([torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)])
        ctx.save_for_backward(*(torch.cat(parts) for parts in zip(*gradients, strict=True)))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = upstream  # (B,)
        weighed = (g * weight.view(-1, *[1] * (g.ndim - 1)) for g in ctx.saved_tensors)
        return None, None, None, None, *weighed


def _with(
    text: Mapping[str, Features], part: slice, names: list[tuple[str, str]], leaves: list[Tensor]
) -> dict[str, Features]:
    """The part's features, with the leaves as their tensors."""
    own: dict[str, dict[str, Tensor]] = {key: {} for key in text}
    for (key, name), leaf in zip(names, leaves, strict=True):
        own[key][name] = leaf
    return {key: features.rows(part).with_tensors(own[key]) for key, features in text.items()}
