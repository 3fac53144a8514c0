"""Classify in two stages: CLIP makes a shortlist, and the diffusion classifier decides the uncertain images."""

from __future__ import annotations

from typing import Any

import torch

from ..images.tensors import as_batch
from .base import Classifier, Scores
from .clip import ClipClassifier
from .diffusion import DiffusionClassifier

__all__ = ["MARGIN", "SHORTLIST", "CascadeClassifier"]

SHORTLIST, MARGIN = 3, 5.0


class CascadeClassifier(Classifier):
    """If the first classifier is uncertain, add the logits of a diffusion classifier over its best few classes.

    Logits are ``first / temperature + weight * second``, the log-probabilities of two classifiers with independent
    errors. Classes outside the shortlist get the second logit of its worst class, so they cannot pass any of it.

    Args:
        first: CLIP or hybrid classifier; calibrate it first, since its temperature is used.
        second: classifier by noise errors.
        shortlist: number of classes that the second classifier compares.
        margin: lead of the best class over the next, in log-probability, from which the first classifier decides alone.
            5 is odds of about 150 to 1.
        weight: factor of the second's logits; 2 had the lowest cross-entropy on the tuning characters
            (docs/performance.md).
    """

    def __init__(
        self, first: ClipClassifier, second: DiffusionClassifier, *, shortlist: int = SHORTLIST,
        margin: float = MARGIN, weight: float = 2.0,
    ):  # fmt: skip
        self.first, self.second, self.labels = first, second, second.labels
        self.image_size = second.image_size
        self.shortlist, self.margin, self.weight = min(shortlist, len(second.labels)), margin, weight

    def scores(self, images: Any) -> Scores:
        images = as_batch(images)
        first = self.first.scores(images)
        logits, evaluations = first.logits / self.first.temperature, first.evaluations.clone()
        if self.shortlist < 2:
            return Scores(logits, evaluations)
        values, order = logits.topk(self.shortlist, dim=1)
        doubtful = values[:, 0] - values[:, 1] < self.margin
        if doubtful.any():
            candidates = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, order, True)
            second = self.second.scores(images[doubtful], candidates[doubtful])
            logits[doubtful] += self.weight * (second.logits - second.logits.amax(1, keepdim=True))
            evaluations[doubtful] += second.evaluations
        return Scores(logits, evaluations)
