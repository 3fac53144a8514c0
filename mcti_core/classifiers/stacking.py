"""Choose the weights of a hybrid classifier's parts by stacking, on left-out examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["held_out_logits", "stacking_weights"]

_MAX_FOLDS = 10
_FACTORS = 2.0 ** torch.arange(-3, 4)
_PRIOR_STRENGTH = 3.0
"""Cost of doubling or halving a weight, in nats, so that few examples change the weights little."""


def held_out_logits(
    features: Tensor, labels: Tensor, classes: int, fit: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]
) -> Tensor:
    """Logits of each example by a classifier that was fitted without it, and without one example of each other class.

    Args:
        features: (N, p) features of the examples.
        labels: (N,) int64.
        classes: C.
        fit: returns, for features (M, p) and labels (M,), a function from features (B, p) to logits (B, C).

    Returns:
        (N, C) float32; NaN for the only example of a class.
    """
    place = torch.empty_like(labels)  # each example's position in its class
    for label in labels.unique():
        own = labels == label
        place[own] = torch.arange(int(own.sum()))
    usable = torch.bincount(labels, minlength=classes)[labels] > 1
    fold = place % _MAX_FOLDS  # a class of two or more is never in one fold
    logits = torch.full((len(labels), classes), torch.nan)
    for number in fold[usable].unique():
        out = usable & (fold == number)
        logits[out] = fit(features[~out], labels[~out])(features[out]).float()
    return logits


def stacking_weights(parts: Sequence[Tensor], labels: Tensor, first: Sequence[float]) -> Tensor:
    """The weights for which the weighted sum of the parts' logits has the smallest cross-entropy on left-out examples.

    Each weight is its initial value times a power of two from 1/8 to 8; all combinations are compared.

    Args:
        parts: K tensors (N, C), logits of examples that the parts were not fitted to; rows with NaN are skipped.
        labels: (N,) int64.
        first: the K initial weights, which are returned if there are no such examples.

    Returns:
        (K,) float32.

    References:
        Wolpert 1992, "Stacked generalization".
    """
    known = torch.stack([part.isfinite().all(1) for part in parts]).all(0)
    usable, wanted = [part[known] for part in parts], labels[known]
    tried = torch.cartesian_prod(*[_FACTORS] * len(parts)).view(-1, len(parts))
    cost, tried = _PRIOR_STRENGTH * tried.log2().square().sum(1), tried * torch.tensor(first)
    if len(wanted):
        for number, weights in enumerate(tried):
            mixed = torch.stack([weight * part for weight, part in zip(weights, usable, strict=True)]).sum(0)
            cost[number] += F.cross_entropy(mixed, wanted, reduction="sum")
    return tried[cost.argmin()]
