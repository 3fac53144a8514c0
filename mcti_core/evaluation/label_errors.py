"""Rank likely label errors by out-of-sample confidences."""

from __future__ import annotations

import torch
from torch import Tensor

from ..classifiers.calibration import fit_temperature
from ..classifiers.stacking import held_out_logits
from ..data.feature_cache import FeatureCache
from ..errors import ConfigError

__all__ = ["rank_label_errors"]


def rank_label_errors(cache: FeatureCache) -> list[tuple[int, int, float]]:
    """Rank the examples whose label is not the most likely class.

    Each example is classified by a logistic regression on image features that was fitted without it. The only example of a
    class is skipped.

    Returns:
        (index of the example, index of the most likely class, confidence in it), by descending difference between that
        confidence and that in the label: the greater it is, the more likely is a label error.

    Raises:
        ConfigError: there are no image features, or every class has only one image.

    References:
        Northcutt et al., "Confident Learning", JAIR 2021, arXiv 1911.00068: out-of-sample confidences rank label errors.
    """
    if cache.features is None:
        raise ConfigError("to find label errors, the examples need image features; give a CLIP space")
    features, labels, count = cache.features[:, 0], cache.labels, len(cache.classes)
    logits = held_out_logits(features, labels, count)
    judged = logits.isfinite().all(1).nonzero()[:, 0]
    if not len(judged):
        raise ConfigError("every class has one image, and to judge it a class needs two; add images")
    logits, labels = logits[judged], labels[judged]
    confidences = (logits / fit_temperature(logits, labels)).softmax(1)
    best, suggested = confidences.max(1)
    margin: Tensor = best - confidences[torch.arange(len(labels)), labels]
    order = margin.argsort(descending=True, stable=True)
    return [
        (int(judged[row]), int(suggested[row]), float(best[row])) for row in order[: int((margin > 0).sum())].tolist()
    ]
