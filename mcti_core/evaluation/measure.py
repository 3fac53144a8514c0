"""Measure a trained token set on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..classifiers.base import Classifier
from ..classifiers.clip import ClipClassifier, image_features
from ..data.image_stream import default_num_workers, read_ahead
from ..errors import ExamplesError, listed
from ..escaping import escaped
from ..hosts.base import Host
from ..images.reading import load_squares, one_error
from ..tokens.names import index_of
from ..tokens.token_set import TokenSet
from .metrics import accuracy, calibration_bins, confusion_matrix, expected_calibration_error, per_class_table

__all__ = ["Measurement", "aligned_table", "class_indices", "count_learned", "percent", "score_images"]

_COPY_SIMILARITY = 0.9995
"""Cosine of two images' features. With the pocket checkpoint, no two different digits exceed 0.979; the same image reaches 0.999999."""
_MAX_LISTED = 20
"""Maximum number of wrong predictions in a record."""


@dataclass(frozen=True)
class Measurement:
    """Confidences of a classifier for N held-out images, with the metrics computed from them."""

    classes: tuple[str, ...]
    labels: Tensor
    """(N,) int64 true classes."""
    confidences: Tensor
    """(N, C) float32; each row sums to 1."""

    @cached_property
    def predicted(self) -> Tensor:
        """(N,) int64 predicted classes."""
        return self.confidences.argmax(1)

    def confusion(self) -> Tensor:
        """(C, C) int64: images of each true class (row) that were classified as each class (column)."""
        return confusion_matrix(self.predicted, self.labels, len(self.classes))

    def class_table(self) -> list[str]:
        """Lines of a Markdown table with one row per class."""
        rows = [
            (escaped(row.label), str(row.images), percent(row.precision), percent(row.recall), escaped(row.most_confused_with or ""))
            for row in per_class_table(self.predicted, self.labels, self.classes)
        ]  # fmt: skip
        return aligned_table(("class", "images", "precision", "recall", "most often taken for"), rows)

    def calibration_error(self) -> float:
        """The expected calibration error, in [0, 1]."""
        return expected_calibration_error(calibration_bins(self.confidences.amax(1), self.predicted == self.labels))

    def record(self, images: Sequence[str]) -> dict[str, Any]:
        """All metrics of the images with these names, as JSON-serialisable values."""
        best = self.confidences.amax(1)
        wrong = (self.predicted != self.labels).nonzero()[:, 0]
        most_confident_first = wrong[best[wrong].argsort(descending=True, stable=True)].tolist()
        return {
            "images": len(self.labels),
            "classes": list(self.classes),
            "chance": 1 / len(self.classes),
            "accuracy": accuracy(self.predicted, self.labels),
            "expected_calibration_error": self.calibration_error(),
            "calibration": [asdict(each) for each in calibration_bins(best, self.predicted == self.labels)],
            "per_class": [asdict(row) for row in per_class_table(self.predicted, self.labels, self.classes)],
            "confusion_matrix": self.confusion().tolist(),
            "most_confidently_wrong": [
                {
                    "image": images[index],
                    "label": self.classes[self.labels[index]],
                    "predicted": self.classes[self.predicted[index]],
                    "confidence": round(float(best[index]), 6),
                }
                for index in most_confident_first[:_MAX_LISTED]
            ],
        }  # fmt: skip


def score_images(
    host: Host, classifier: Classifier, images: Sequence[Path | Tensor], *, size: int | None = None, batch_size: int = 32,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Compute confidences and image features, reading the images batch by batch.

    Args:
        host: the classifier's host.
        images: N paths, or tensors (3, H, W) in [0, 1].
        size: side in pixels, by default ``host.image_size``.
        batch_size: batch size.
        progress: called with the number of finished images and of all images.

    Returns:
        (N, C) float32 confidences, and (N, p) float32 image features; None without a CLIP space.

    Raises:
        ExamplesError: images are unreadable; the error lists all of them.
    """
    side = size or host.image_size
    logits, features, errors = list[Tensor](), list[Tensor](), list[ExamplesError]()
    for found in read_ahead(images, batch_size, lambda image: load_squares([image], side)[0], default_num_workers()):
        errors += [image for _, image in found if isinstance(image, ExamplesError)]
        if errors:  # the others are still read, so that one message lists all unreadable images
            continue
        squares = torch.stack([image for _, image in found if isinstance(image, Tensor)])
        if host.clip is not None:
            features.append(image_features(host, squares))
        if isinstance(classifier, ClipClassifier) and features:
            logits.append(classifier.logits(features[-1]))
        else:
            logits.append(classifier.scores(squares).logits.cpu())
        progress(sum(map(len, logits)), len(images))
    if errors:
        raise one_error(errors)
    confidences = (torch.cat(logits) / classifier.temperature).softmax(1)
    return confidences.clone(), torch.cat(features).clone() if features else None


def class_indices(labels: Sequence[str], known: Sequence[str]) -> list[int]:
    """The index of each label among known classes.

    Raises:
        ExamplesError: a label is not a known class.
    """
    found = [index_of(label, known) for label in labels]
    if None in found:
        raise ExamplesError(f"the tokens have no class {labels[found.index(None)]!r}; they have {listed(known)}")
    return [index for index in found if index is not None]


def count_learned(tokens: TokenSet, features: Tensor | None) -> int:
    """Number of images that are training examples or near-duplicates of them, by their features (N, p)."""
    support = tokens.support
    if support is None or features is None or features.shape[1] != support.features.shape[1]:
        return 0
    examples = normalize(support.features, dim=1).T
    closest = [(part @ examples).amax(1) for part in normalize(features, dim=1).split(32)]
    return sum(int((part > _COPY_SIMILARITY).sum()) for part in closest)


def aligned_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a Markdown table that is also readable as plain text."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(line)} |" for line in lines]


def percent(share: float | None, digits: int = 0) -> str:
    """A share in percent; empty for None."""
    return "" if share is None else f"{100 * share:.{digits}f} %"
