"""What every classifier gives: scores of images for classes, and predictions made of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, HostError
from ..tokens.token_set import UNKNOWN

__all__ = ["UNKNOWN", "Classifier", "Prediction", "Scores", "predictions"]


@dataclass(frozen=True)
class Scores:
    """What a classifier thinks of B images.

    Raises:
        HostError: logits that are NaN.
    """

    logits: Tensor
    """(B, C) float32; the greater, the likelier."""
    evaluations: Tensor
    """(B,) int64 denoiser evaluations spent on each image."""

    def __post_init__(self) -> None:
        numbers(self.logits)


class Classifier(ABC):
    """Base of the classifiers. One of your own sets ``labels`` and defines ``score``."""

    labels: tuple[str, ...]
    temperature: float = 1.0
    """Divides the logits before the softmax that gives confidences; set by ``classifiers.calibration``."""
    threshold: float = 0.0
    """Least confidence of an answer; below it the answer is ``UNKNOWN``. 0 always answers."""

    @abstractmethod
    def score(self, images: Any) -> Scores:
        """A batch, a list of images, or one image, as ``images.tensors.as_batch`` takes them -> scores.

        Raises:
            ExamplesError: images of another kind, shape or range, of several sizes, or with values that are not finite.
        """

    def predict(self, images: Any, *, top: int = 1) -> list[Prediction]:
        """One prediction per image, with this classifier's temperature and threshold.

        Args:
            images: as ``score`` takes them.
            top: number of classes to name, at most all.

        Raises:
            ExamplesError, ConfigError, HostError: as ``score`` and ``predictions``.
        """
        scores = self.score(images)
        return predictions(self.labels, scores, temperature=self.temperature, threshold=self.threshold, top=top)


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    label: str
    """The best class, or ``UNKNOWN``."""
    index: int
    """Its place in label order; -1 for ``UNKNOWN``."""
    confidence: float
    """Of the best class, in [0, 1]."""
    top: tuple[tuple[str, float], ...]
    """The best k classes with their confidences."""
    evaluations: int

    @property
    def unknown(self) -> bool:
        """Whether the answer is none of the classes. A class may itself be called unknown: its images are not."""
        return self.index < 0

    def record(self, top: int | None = None) -> dict[str, Any]:
        """Plain values for JSON, with at most ``top`` of the best classes."""
        return {
            "label": None if self.unknown else self.label,
            "unknown": self.unknown,
            "index": self.index,
            "confidence": round(self.confidence, 6),
            "top": [{"label": label, "confidence": round(confidence, 6)} for label, confidence in self.top[:top]],
        }


def predictions(
    labels: Sequence[str], scores: Scores, *, temperature: float = 1.0, threshold: float = 0.0, top: int = 1
) -> list[Prediction]:
    """One prediction an image; ``top`` is cut to the number of classes.

    Raises:
        ConfigError: the scores are of another number of classes; ``temperature``, ``threshold`` or ``top`` is out of range.
        HostError: the scores hold values that are not numbers.
    """
    if scores.logits.ndim != 2 or scores.logits.shape[1] != len(labels):
        raise ConfigError(
            f"the scores have the shape {tuple(scores.logits.shape)}; for {len(labels)} labels give (B, {len(labels)})"
        )
    if not 0 < temperature < math.inf or not 0 <= threshold <= 1 or top < 1:
        raise ConfigError(
            "temperature must be above 0, threshold from 0 to 1 and top at least 1, "
            f"got {temperature!s:.40}, {threshold!s:.40} and {top!s:.40}"
        )
    confidences = (numbers(scores.logits).float() / temperature).softmax(1).cpu()
    if confidences.isnan().any():
        raise HostError("the model's scores are infinite; load it in another number format (bf16 or fp32)")
    values, order = confidences.topk(min(top, len(labels)), dim=1)
    found = []
    for row, (value, index) in enumerate(zip(values.tolist(), order.tolist(), strict=True)):
        known = value[0] >= threshold
        best = tuple((labels[i], v) for i, v in zip(index, value, strict=True))
        label = best[0][0] if known else UNKNOWN
        found.append(Prediction(label, index[0] if known else -1, value[0], best, int(scores.evaluations[row])))
    return found


def numbers(logits: Tensor) -> Tensor:
    """The logits themselves. argmax takes NaN for the greatest, so a model that gives it is not answered for.

    Raises:
        HostError: some are NaN.
    """
    if logits.isnan().any():
        raise HostError("the model's scores are not numbers; load it in another number format (bf16 or fp32)")
    return logits


def no_evaluations(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.long)
