"""Choose the weights of a hybrid classifier's parts by stacking, on left-out examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .logistic import LogisticRegression

__all__ = ["held_out_logits", "stacking_weights"]

_MAX_FOLDS = 10
_FACTORS = 2.0 ** torch.arange(-3, 4)
_PRIOR_STRENGTH = 3.0
"""Cost per squared doubling of a weight, in nats, so that few examples change the weights little."""


def held_out_logits(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Logits of each example by a logistic regression fitted without it, and without one example of each other class.

    (N, p) features and (N,) int64 labels of C classes -> (N, C) float32; NaN for the only example of a class.
    """
    position = torch.empty_like(labels)  # each example's position in its class
    for label in labels.unique():
        members = labels == label
        position[members] = torch.arange(int(members.sum()))
    usable = torch.bincount(labels, minlength=classes)[labels] > 1
    fold = position % _MAX_FOLDS  # a class of two or more is never in one fold
    logits = torch.full((len(labels), classes), torch.nan)
    for number in fold[usable].unique():
        out = usable & (fold == number)
        logits[out] = LogisticRegression(features[~out], labels[~out], classes).logits(features[out])
    return logits


def stacking_weights(parts: Sequence[Tensor], labels: Tensor, initial: Sequence[float]) -> Tensor:
    """The weights for which the weighted sum of the parts' logits has the smallest cross-entropy on left-out examples, plus a
    penalty of 3 nats per squared doubling of an initial weight.

    Args:
        parts: K tensors (N, C), logits of examples that the parts were not fitted to; rows with NaN are skipped.
        labels: (N,) int64.
        initial: K weights, which are returned if there are no such examples.

    Returns:
        (K,) float32: each is its initial value times a power of two from 1/8 to 8; all combinations are compared.

    References:
        Wolpert 1992, "Stacked generalization".
    """
    known = torch.stack([part.isfinite().all(1) for part in parts]).all(0)
    parts, labels = [part[known] for part in parts], labels[known]
    factors = torch.cartesian_prod(*[_FACTORS] * len(parts)).view(-1, len(parts))
    cost, candidates = _PRIOR_STRENGTH * factors.log2().square().sum(1), factors * torch.tensor(initial)
    if len(labels):
        for number, weights in enumerate(candidates):
            logits = torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum(0)
            cost[number] += F.cross_entropy(logits, labels, reduction="sum")
    return candidates[cost.argmin()]
