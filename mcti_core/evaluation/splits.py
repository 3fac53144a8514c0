"""Train/test splits: a given test set, and stratified cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..data.dataset import FewShotDataset, few_shot_split
from ..errors import ExamplesError

__all__ = ["Split", "cross_validation", "given_split", "joined", "usual_shots"]

Split = Callable[[int, int], tuple[Tensor, Tensor]]
"""Function (shots, seed) -> indices of the training and of the test examples."""


def joined(train: FewShotDataset, test: FewShotDataset, classes: Sequence[int]) -> FewShotDataset:
    """Concatenate training and test examples.

    Args:
        classes: index in ``train`` of each class of ``test``.
    """
    labels = torch.cat([train.labels, torch.tensor(classes)[test.labels]])
    return replace(train, images=(*train.images, *test.images), labels=labels)


def given_split(labels: Tensor, classes: Sequence[str], train: int) -> Split:
    """Train on ``shots`` random examples per class among the first ``train``, and test on all others.

    If ``shots`` is the size of the largest class, all of the first ``train`` examples are used.

    Raises:
        ExamplesError: the split is called with more shots than a class has.
    """
    train_labels, test = labels[:train], torch.arange(train, len(labels))
    largest_class = int(torch.bincount(train_labels).max())

    def split(shots: int, seed: int) -> tuple[Tensor, Tensor]:
        if shots == largest_class:
            return torch.arange(train), test
        return few_shot_split(train_labels, classes, shots, seed, least_left=0)[0], test

    return split


def cross_validation(labels: Tensor, classes: Sequence[str], folds: int) -> Split:
    """Stratified cross-validation: seed ``folds * s + f`` tests on fold f of shuffle s and trains on the other folds; shots are ignored.

    Raises:
        ExamplesError: a class has only one image.
    """
    usual_shots(labels, classes)

    def split(shots: int, seed: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed // folds))
        fold_of = torch.empty_like(labels)
        for index in range(len(classes)):
            members = order[labels[order] == index]
            fold_of[members] = (torch.arange(len(members)) + index) % folds  # folds of equal size
        tested = fold_of == seed % folds
        return (~tested).nonzero()[:, 0], tested.nonzero()[:, 0]

    return split


def usual_shots(labels: Tensor, classes: Sequence[str]) -> list[int]:
    """The numbers of shots among 1, 2, 4 and 8 that leave a test image for every class.

    Raises:
        ExamplesError: a class has only one image.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    if (least := int(counts.min())) < 2:
        needed = "to evaluate, every class needs at least two, one to learn from and one to test on"
        raise ExamplesError(f"class {classes[int(counts.argmin())]!r} has {least} image; {needed}")
    return [count for count in (1, 2, 4, 8) if count < least]
