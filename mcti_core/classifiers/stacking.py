"""How much each part of a hybrid classifier counts, by what it says of examples that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["held_out_logits", "stacking_weights"]

_MOST_FOLDS = 10
_FACTORS = 2.0 ** torch.arange(-3, 4)
_PULL = 3.0
"""What it costs to double or halve a weight, in units of one example's cross-entropy: few examples say little."""


def held_out_logits(
    features: Tensor, labels: Tensor, classes: int, fit: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]
) -> Tensor:
    """Logits of each example by a part that was fitted without it, and without one example of each other class.

    Args:
        features: (N, p) of the examples.
        labels: (N,) int64.
        classes: C.
        fit: (M, p) features and (M,) labels -> what gives (B, p) features their (B, C) logits.

    Returns:
        (N, C) float32; nan for examples that are their class's only one.
    """
    place = torch.empty_like(labels)  # of each example among its class's
    for label in labels.unique():
        own = labels == label
        place[own] = torch.arange(int(own.sum()))
    usable = torch.bincount(labels, minlength=classes)[labels] > 1
    fold = place % _MOST_FOLDS  # a class of two or more is never in one fold
    logits = torch.full((len(labels), classes), torch.nan)
    for number in fold[usable].unique():
        out = usable & (fold == number)
        logits[out] = fit(features[~out], labels[~out])(features[out]).float()
    return logits


def stacking_weights(parts: Sequence[Tensor], labels: Tensor, first: Sequence[float]) -> Tensor:
    """Weights at which the sum of the parts' logits gives unseen examples the least cross-entropy.

    Each is its first weight times a power of two from 1/8 to 8; all of them are tried together.

    Args:
        parts: K of (N, C) logits of examples that the parts have not seen; rows with nan are passed over.
        labels: (N,) int64.
        first: K weights that are taken where there is no such example.

    Returns:
        (K,) float32.

    References:
        Wolpert 1992, "Stacked generalization".
    """
    known = torch.stack([part.isfinite().all(1) for part in parts]).all(0)
    usable, wanted = [part[known] for part in parts], labels[known]
    tried = torch.cartesian_prod(*[_FACTORS] * len(parts)).view(-1, len(parts))
    cost, tried = _PULL * tried.log2().square().sum(1), tried * torch.tensor(first)
    if len(wanted):
        for number, weights in enumerate(tried):
            mixed = torch.stack([weight * part for weight, part in zip(weights, usable, strict=True)]).sum(0)
            cost[number] += F.cross_entropy(mixed, wanted, reduction="sum")
    return tried[cost.argmin()]
