"""Quality of generated images: class agreement, similarity to real images, and diversity."""

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

_MAX_IMAGES = 64
"""Maximum number of images in memory, unless a single class has more."""


def drawing_measures(task: Task, tokens: TokenSet, seed: int) -> dict[str, float]:
    """Generate ``protocol.drawings`` images per class from the tokens' first template, and measure them."""
    count = task.protocol.drawings
    wanted = torch.arange(len(tokens)).repeat_interleave(count)
    features = []
    for part in wanted.split(max(count, _MAX_IMAGES // count * count)):
        images = generate(task.host, part.tolist(), tokens, num_inference_steps=task.protocol.drawing_steps, seed=seed)
        features.append(F.normalize(image_features(task.host, images), dim=-1))
    return image_measures(task, torch.cat(features), wanted)


def image_measures(task: Task, features: Tensor, wanted: Tensor) -> dict[str, float]:
    """Measure B images by their CLIP image features.

    Args:
        features: (B, p) float32 of unit length.
        wanted: (B,) int64 intended classes.

    Returns:
        ``agreement``: accuracy of ``task.judge``, a probe trained on real images, with the intended classes as labels;
        ``clip_i``: mean cosine to the real training images of the intended class;
        ``diversity``: mean of 1 - cosine over the pairs of a class, averaged over classes with two images or more;
        absent if there are none.
    """
    count = len(task.names)
    means = _sums(task.pool_features, task.pool.labels, count) / torch.bincount(task.pool.labels)[:, None]
    measures = {
        "agreement": accuracy(task.judge(features), wanted),
        "clip_i": float((features * means[wanted]).sum(1).mean()),
    }
    images = torch.bincount(wanted, minlength=count).double()
    squares = _sums(features, wanted, count).double().square().sum(1)  # images + sum of cosines over ordered pairs
    distances = (1 - (squares - images) / (images * (images - 1)))[images > 1]
    return measures | ({"diversity": float(distances.mean())} if len(distances) else {})


def _sums(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(C, p) sum of the features per class."""
    return torch.zeros(classes, features.shape[1]).index_add_(0, labels, features)
