"""Answers to images that are read ahead of the classifier, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..errors import ExamplesError
from .base import Classifier, Prediction, predict

__all__ = ["classified"]

_Answered = list[tuple[str, Prediction | ExamplesError]]


def classified(
    classifier: Classifier, batches: Iterable[list[tuple[str, Tensor | ExamplesError]]], *, threshold: float = 0.0, top: int = 1
) -> Iterator[_Answered]:  # fmt: skip
    """Batches as ``read_ahead`` gives them -> the same with an answer in place of each image, (3, H, W) all of one size."""
    for batch in batches:
        images = [image for _, image in batch if isinstance(image, Tensor)]
        answers: Iterator[Prediction] = iter(())
        if images:
            scores = classifier.score(torch.stack(images))
            answers = iter(
                predict(classifier.labels, scores, temperature=classifier.temperature, threshold=threshold, top=top)
            )
        yield [(path, next(answers) if isinstance(image, Tensor) else image) for path, image in batch]
