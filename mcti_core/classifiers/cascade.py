"""Classify in two steps: CLIP makes a shortlist, the diffusion model decides."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Scores
from .clip import ClipClassifier
from .diffusion import DiffusionClassifier
from .hybrid import HybridClassifier

__all__ = ["CascadeClassifier"]


class CascadeClassifier:
    """The best ``shortlist`` classes by features are tried by the diffusion classifier; the rest rank below them.

    Args:
        first: by features, in one pass of the vision tower.
        second: by noise errors.
        shortlist: classes handed on.
        margin: images whose first choice leads by at least this much in ``first``'s logits are not handed on.
    """

    def __init__(
        self,
        first: ClipClassifier | HybridClassifier,
        second: DiffusionClassifier,
        *,
        shortlist: int = 3,
        margin: float = torch.inf,
    ):
        self.first, self.second, self.labels = first, second, second.labels
        self.shortlist, self.margin = min(shortlist, len(second.labels)), margin
        self.temperature, self.threshold = 1.0, 0.0

    def score(self, images: Tensor) -> Scores:
        fast = self.first.score(images)
        if self.shortlist < 2:
            return fast
        values, order = fast.logits.topk(self.shortlist, dim=1)
        open_ = values[:, 0] - values[:, 1] < self.margin
        logits, evaluations = fast.logits.clone(), fast.evaluations.clone()
        if open_.any():
            listed = torch.zeros_like(fast.logits, dtype=torch.bool).scatter_(1, order, True)
            slow = self.second.score(images[open_], listed[open_])
            logits[open_] = _decided(fast.logits[open_], slow.logits, listed[open_])
            evaluations[open_] += slow.evaluations
        return Scores(logits, evaluations)


def _decided(fast: Tensor, slow: Tensor, listed: Tensor) -> Tensor:
    """The shortlist by the slow logits, lifted above all others, which keep the fast ones."""
    floor = slow.masked_fill(~listed, torch.inf).amin(1, keepdim=True)
    lift = fast.masked_fill(listed, -torch.inf).amax(1, keepdim=True).nan_to_num(neginf=0.0)
    return torch.where(listed, slow - floor + lift + 1e-3, fast)
