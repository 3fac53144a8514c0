"""Splits of examples into those to learn from and those to test on: random ones, a given one, and cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..data.dataset import FewShotDataset, few_shot_split
from ..errors import ExamplesError

__all__ = ["Split", "cross_validation", "given_split", "joined", "usual_shots"]

Split = Callable[[int, int], tuple[Tensor, Tensor]]
"""(shots, seed) -> indices of the examples to learn from, and of those to test on."""


def joined(train: FewShotDataset, test: FewShotDataset, classes: Sequence[int]) -> FewShotDataset:
    """Training examples, followed by test examples.

    Args:
        classes: the index in ``train`` of each class of ``test``.
    """
    labels = torch.cat([train.labels, torch.tensor(classes)[test.labels]])
    skipped = "; ".join(filter(None, (train.skipped, test.skipped)))
    return replace(train, images=(*train.images, *test.images), labels=labels, skipped=skipped)


def given_split(labels: Tensor, classes: Sequence[str], train: int) -> Split:
    """The first ``train`` examples are to learn from, the others to test on.

    ``shots`` random ones of each class are used, or all of them if no class has more than ``shots``.

    Raises:
        ExamplesError: when it is called with more shots than a class has.
    """
    own, test = labels[:train], torch.arange(train, len(labels))
    most = int(torch.bincount(own).max())

    def split(shots: int, seed: int) -> tuple[Tensor, Tensor]:
        if shots == most:
            return torch.arange(train), test
        return few_shot_split(own, classes, shots, seed, least_left=0)[0], test

    return split


def cross_validation(labels: Tensor, classes: Sequence[str], folds: int) -> Split:
    """Stratified folds: seed ``folds * s + f`` tests on fold f of shuffle s, and learns from all others; shots are not used.

    Raises:
        ExamplesError: a class has one image only.
    """
    usual_shots(labels, classes)

    def split(shots: int, seed: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed // folds))
        place = torch.empty_like(labels)
        for index in range(len(classes)):
            members = order[labels[order] == index]
            place[members] = (torch.arange(len(members)) + index) % folds  # folds of equal size
        tested = place == seed % folds
        return (~tested).nonzero()[:, 0], tested.nonzero()[:, 0]

    return split


def usual_shots(labels: Tensor, classes: Sequence[str]) -> list[int]:
    """Those of 1, 2, 4 and 8 shots that leave a test image for every class.

    Raises:
        ExamplesError: a class has only one image.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    if (least := int(counts.min())) < 2:
        raise ExamplesError(
            f"class {classes[int(counts.argmin())]!r} has {least} image; to evaluate, every class needs at least two, one to learn from "
            "and one to test on"
        )
    return [count for count in (1, 2, 4, 8) if count < least]
