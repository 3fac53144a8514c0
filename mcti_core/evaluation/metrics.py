"""Accuracy, confusion matrix, precision and recall per class, and calibration."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError

__all__ = [
    "CalibrationBin", "ClassRow", "accuracy", "calibration_bins", "confusion_matrix", "expected_calibration_error",
    "mean_and_deviation", "per_class_table",
]  # fmt: skip


@dataclass(frozen=True)
class ClassRow:
    """Metrics of one class."""

    label: str
    images: int
    precision: float | None
    """True positives per image classified as this class; None without such images."""
    recall: float | None
    """True positives per image of this class; None without images."""
    most_confused_with: str | None
    """Most frequent wrong prediction for its images; None without errors."""


@dataclass(frozen=True)
class CalibrationBin:
    """Images whose confidence is in one range."""

    images: int
    confidence: float
    """Mean confidence."""
    accuracy: float


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of correct predictions.

    Args:
        predicted: (N,) int64 predicted classes; -1 (unknown) counts as wrong.
        labels: (N,) int64 true classes.
    """
    _check_pairs(predicted, labels)
    return float((predicted == labels).double().mean())


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Number of images of each true class (row) classified as each class (column).

    Args:
        predicted: (N,) int64 predicted classes; images with -1 (unknown) are in no column.
        labels: (N,) int64 true classes.
        classes: C.

    Returns:
        (C, C) int64.

    Raises:
        ConfigError: an index is not a class, or there are no images.
    """
    _check_pairs(predicted, labels)
    if labels.min() < 0 or predicted.min() < -1 or max(labels.max(), predicted.max()) >= classes:
        raise ConfigError(f"labels must be from 0 to {classes - 1}, and predictions too or -1 for unknown")
    known = predicted >= 0
    cells = labels[known] * classes + predicted[known]
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)


def per_class_table(predicted: Tensor, labels: Tensor, names: Sequence[str]) -> list[ClassRow]:
    """One row per class, in label order; ``predicted`` and ``labels`` as in ``confusion_matrix``."""
    matrix = confusion_matrix(predicted, labels, len(names))
    images = torch.bincount(labels, minlength=len(names))
    rows = []
    for index, name in enumerate(names):
        right, count, others = int(matrix[index, index]), int(images[index]), matrix[index].clone()
        others[index] = 0
        most_confused_with = names[int(others.argmax())] if others.any() else None
        precision, recall = (right / n if n else None for n in (int(matrix[:, index].sum()), count))
        rows.append(ClassRow(name, count, precision, recall, most_confused_with))
    return rows


def calibration_bins(confidences: Tensor, correct: Tensor, bins: int = 15) -> list[CalibrationBin]:
    """Group images by confidence into ranges of equal width, and drop empty ranges.

    Args:
        confidences: (N,) floats in [0, 1].
        correct: (N,) bool.
        bins: number of ranges.
    """
    _check_pairs(confidences, correct)
    bin_of = (confidences * bins).ceil().long().clamp(1, bins)
    groups = [bin_of == number for number in range(1, bins + 1) if (bin_of == number).any()]
    return [
        CalibrationBin(int(rows.sum()), float(confidences[rows].double().mean()), float(correct[rows].double().mean()))
        for rows in groups
    ]


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Mean absolute difference between confidence and accuracy, weighted by the number of images per bin.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599, equation 3.
    """
    total = sum(each.images for each in bins)
    return sum(each.images * abs(each.confidence - each.accuracy) for each in bins) / total


def mean_and_deviation(values: Sequence[float], form: str = ".1f") -> str:
    """Mean and, of several values, standard deviation as text; empty without values."""
    deviation = f" ± {statistics.stdev(values):{form.removeprefix('+')}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{deviation}" if values else ""


def _check_pairs(first: Tensor, second: Tensor) -> None:
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ConfigError(
            f"there must be as many answers as true classes, at least one, in one row each; got {tuple(first.shape)} and {tuple(second.shape)}"
        )
