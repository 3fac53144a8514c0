"""Classify in two steps: CLIP makes a shortlist, and the diffusion model has a say where CLIP is in doubt."""

from __future__ import annotations

from typing import Any

import torch

from ..images.tensors import as_batch
from .base import Classifier, Scores
from .clip import ClipClassifier
from .diffusion import DiffusionClassifier
from .hybrid import HybridClassifier

__all__ = ["MARGIN", "SHORTLIST", "WEIGHT", "CascadeClassifier"]

SHORTLIST, MARGIN, WEIGHT = 3, 5.0, 2.0


class CascadeClassifier(Classifier):
    """Where the first classifier is in doubt, the diffusion classifier tries its best few classes, and both are added.

    Logits are ``first / temperature + weight * second``: log-probabilities of two witnesses who are taken to err
    independently. A class that was not tried stands in the second as far off as the worst that was, so that it can
    rank above none of the shortlist.

    Args:
        first: by features, in one pass of the vision tower; its temperature counts, so calibrate it before.
        second: by noise errors.
        shortlist: most classes handed on.
        margin: images whose first choice leads by at least this much in log-probability are not handed on. 5 is odds of
            about 150 to 1.
        weight: of the second's logits; 2 gave the tuning characters the least cross-entropy (docs/performance.md).
    """

    def __init__(
        self,
        first: ClipClassifier | HybridClassifier,
        second: DiffusionClassifier,
        *,
        shortlist: int = SHORTLIST,
        margin: float = MARGIN,
        weight: float = WEIGHT,
    ):
        self.first, self.second, self.labels = first, second, second.labels
        self.shortlist, self.margin, self.weight = min(shortlist, len(second.labels)), margin, weight

    def score(self, images: Any) -> Scores:
        images = as_batch(images)
        fast = self.first.score(images)
        logits, evaluations = fast.logits / self.first.temperature, fast.evaluations.clone()
        if self.shortlist < 2:
            return Scores(logits, evaluations)
        values, order = logits.topk(self.shortlist, dim=1)
        doubtful = values[:, 0] - values[:, 1] < self.margin
        if doubtful.any():
            listed = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, order, True)
            slow = self.second.score(images[doubtful], listed[doubtful])
            logits[doubtful] += self.weight * (slow.logits - slow.logits.amax(1, keepdim=True))
            evaluations[doubtful] += slow.evaluations
        return Scores(logits, evaluations)
