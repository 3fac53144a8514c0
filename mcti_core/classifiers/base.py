"""Base class of the classifiers, with scores and predictions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, HostError
from ..images.tensors import images_in, square_batches
from ..tokens.token_set import UNKNOWN

__all__ = ["Classifier", "Prediction", "Scores", "confidences", "predictions", "reject_nan"]


@dataclass(frozen=True)
class Scores:
    """Scores of B images for C classes. Raises: HostError: a logit is NaN."""

    logits: Tensor
    """(B, C) float32; higher means more likely."""
    evaluations: Tensor
    """(B,) int64 number of denoiser evaluations per image."""

    def __post_init__(self) -> None:
        reject_nan(self.logits)


class Classifier(ABC):
    """Base class of the classifiers. A subclass sets ``labels`` and defines ``scores``.

    A call with images returns ``Prediction`` objects. ``predict``, ``predict_proba``, ``score`` and ``classes_`` follow the
    interface of a fitted scikit-learn classifier. All of these read paths, and crop and resize images to ``image_size``;
    ``scores`` does not.
    """

    labels: tuple[str, ...]
    temperature: float = 1.0
    """Divisor of the logits before the softmax; set by ``classifiers.calibration``."""
    threshold: float = 0.0
    """Minimum confidence, in [0, 1]; below it the prediction is ``UNKNOWN``."""
    image_size: int | None = None
    """Side in pixels of the square images passed to ``scores``; None keeps the original size."""

    @abstractmethod
    def scores(self, images: Any) -> Scores:
        """Scores of a batch, a list of images, or one image, as ``images.tensors.as_batch`` accepts them.

        Raises:
            ExamplesError: invalid type, shape or range, several sizes, or values that are not finite.
        """

    def __call__(self, images: Any, *, top: int = 1) -> list[Prediction]:
        """One prediction per image, with this classifier's temperature and threshold.

        Args:
            images: one or several paths, Pillow images, arrays or tensors, as ``images.tensors.square_batches`` accepts them.
            top: number of classes to report, at most C.

        Raises:
            ExamplesError, ConfigError, HostError: as ``square_batches``, ``scores`` and ``predictions``.
        """
        return list(self.stream([images], top=top))

    def stream(self, batches: Iterable[Any], *, top: int = 1) -> Iterator[Prediction]:
        """Predictions of a stream of batches, such as a ``torch.utils.data.DataLoader``.

        Args:
            batches: each is images as for ``__call__``, a tuple or list whose first entry is a batch (B, 3, H, W), such as
                (images, labels), or a mapping with a key ``image``, ``img`` or ``pixel_values``.
        """
        for batch in batches:
            for scores in self._scores_of(images_in(batch)):
                yield from predictions(
                    self.labels, scores, temperature=self.temperature, threshold=self.threshold, top=top
                )

    @property
    def classes_(self) -> np.ndarray[Any, Any]:
        """(C,) sorted labels, as scikit-learn's metrics expect."""
        return np.array(sorted(self.labels))

    def predict(self, images: Any) -> np.ndarray[Any, Any]:
        """(N,) label per image, or ``UNKNOWN``; ``images`` as for ``__call__``."""
        return np.array([answer.label for answer in self(images)])

    def predict_proba(self, images: Any) -> np.ndarray[Any, Any]:
        """(N, C) float32 confidences, in the order of ``classes_``; ``images`` as for ``__call__``."""
        order = sorted(range(len(self.labels)), key=self.labels.__getitem__)
        parts = [confidences(scores, self.temperature)[:, order] for scores in self._scores_of(images)]
        return torch.cat(parts).numpy()

    def score(self, images: Any, labels: Sequence[str] | Sequence[int] | Tensor) -> float:
        """Accuracy on N images as for ``__call__``, in [0, 1].

        Args:
            labels: (N,) strings, or indices into ``self.labels`` such as ``FewShotDataset.labels``.

        Raises:
            ConfigError: the numbers of images and labels differ, or a label is of another kind.
        """
        try:
            true = [label if isinstance(label, str) else self.labels[int(label)] for label in labels]
        except (TypeError, ValueError, OverflowError, IndexError, RuntimeError) as error:
            classes = len(self.labels)
            raise ConfigError(
                f"a label is neither a text nor the index of one of {classes} classes ({error})"
            ) from error
        predicted = self.predict(images).tolist()
        if len(predicted) != len(true):
            raise ConfigError(f"there are {len(predicted)} images and {len(true)} labels; give one label per image")
        return sum(map(str.__eq__, predicted, true)) / len(predicted)

    def _scores_of(self, images: Any) -> Iterator[Scores]:
        return map(self.scores, square_batches(images, self.image_size))

    _estimator_type = "classifier"  # for scikit-learn before 1.6

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags())


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image."""

    label: str
    """The most likely class, or ``UNKNOWN``."""
    index: int
    """Class index; -1 for ``UNKNOWN``."""
    confidence: float
    """Confidence in the most likely class, in [0, 1]."""
    top: tuple[tuple[str, float], ...]
    """The k most likely classes with their confidences."""
    evaluations: int
    """Number of denoiser evaluations."""

    @property
    def unknown(self) -> bool:
        """Whether no class is confident enough; False for a class that is itself named like ``UNKNOWN``."""
        return self.index < 0

    def record(self, top: int | None = None) -> dict[str, Any]:
        """JSON-serialisable values, with at most ``top`` classes."""
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
    """One prediction per image; ``top`` is limited to the number of classes.

    Raises:
        ConfigError: the scores have another number of classes, or ``temperature``, ``threshold`` or ``top`` is out of range.
        HostError: all scores of an image are infinite.
    """
    shape, classes = tuple(scores.logits.shape), len(labels)
    if shape[1:] != (classes,):
        raise ConfigError(f"the scores have the shape {shape}; for {classes} labels give (B, {classes})")
    if not 0 < temperature < math.inf or not 0 <= threshold <= 1 or top < 1:
        raise ConfigError(
            "temperature must be above 0, threshold from 0 to 1 and top at least 1, "
            f"got {temperature!s:.40}, {threshold!s:.40} and {top!s:.40}"
        )
    values, order = confidences(scores, temperature).topk(min(top, classes), dim=1)
    found = []
    for row, (shares, indices) in enumerate(zip(values.tolist(), order.tolist(), strict=True)):
        best = tuple((labels[index], share) for index, share in zip(indices, shares, strict=True))
        label, index = (best[0][0], indices[0]) if shares[0] >= threshold else (UNKNOWN, -1)
        found.append(Prediction(label, index, shares[0], best, int(scores.evaluations[row])))
    return found


def confidences(scores: Scores, temperature: float = 1.0) -> Tensor:
    """(B, C) float32 softmax of the logits / temperature, on the CPU. Raises: HostError: all of an image are infinite."""
    shares = (scores.logits.float() / temperature).softmax(1).cpu()
    if shares.isnan().any():
        raise HostError("the model's scores are infinite; load it in another number format (bf16 or fp32)")
    return shares


def reject_nan(logits: Tensor) -> Tensor:
    """The logits unchanged. Raises: HostError: one is NaN, which argmax would select."""
    if logits.isnan().any():
        raise HostError("the model's scores are not numbers; load it in another number format (bf16 or fp32)")
    return logits
