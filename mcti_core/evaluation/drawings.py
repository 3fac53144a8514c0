"""Measures of generated images: do they show the right class, look like it, and differ from one another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..classifiers.clip import image_features
from ..sampling import generate
from ..tokens.token_set import TokenSet
from .metrics import accuracy
from .tasks import Task

__all__ = ["drawing_measures", "image_measures"]

_AT_ONCE = 64
"""Images kept at once."""


def drawing_measures(task: Task, tokens: TokenSet, seed: int) -> dict[str, float]:
    """Draw some images of every class in the tokens' first template, and measure them."""
    count, steps = task.protocol.drawings, task.protocol.drawing_steps
    wanted = torch.arange(len(tokens)).repeat_interleave(count)
    features = []
    for part in wanted.split(max(count, _AT_ONCE // count * count)):
        images = generate(task.host, part.tolist(), tokens, steps=steps, seed=seed)
        features.append(F.normalize(image_features(task.host, images), dim=-1))
    return image_measures(task, torch.cat(features), wanted)


def image_measures(task: Task, features: Tensor, wanted: Tensor) -> dict[str, float]:
    """Measures of images by their CLIP image features.

    Args:
        features: (B, p) of unit length.
        wanted: (B,) the class that each should show.

    Returns:
        ``agreement``: share that the judge, a probe trained on the real training images, takes for the right class;
        ``clip_i``: mean cosine to the real training images of the class;
        ``diversity``: mean of 1 - cosine over all pairs of one class, averaged over classes with two images or more.
    """
    count = len(task.names)
    means = _sums(task.pool_features, task.pool.labels, count) / torch.bincount(task.pool.labels)[:, None]
    several = torch.bincount(wanted, minlength=count).double()
    squares = _sums(features, wanted, count).double().square().sum(1)  # n + the sum of cosines of all ordered pairs
    distances = 1 - (squares - several) / (several * (several - 1))
    spread = distances[several > 1]
    found = {
        "agreement": accuracy(task.judge(features), wanted),
        "clip_i": float((features * means[wanted]).sum(1).mean()),
    }
    return found | ({"diversity": float(spread.mean())} if len(spread) else {})


def _sums(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(C, p) sum of each class's rows."""
    return torch.zeros(classes, features.shape[1]).index_add_(0, labels, features)
