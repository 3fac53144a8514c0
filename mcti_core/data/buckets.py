"""Aspect ratio buckets: images approximately keep their aspect ratio and the model's number of pixels.

References:
    NovelAI 2022, "Aspect ratio bucketing" (MIT licence); ``--enable_bucket`` of kohya's scripts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from ..errors import ConfigError

__all__ = ["bucket_of", "bucket_sizes", "rows_by_size"]

_STEP = 64
"""Sides are multiples of this, since UNets halve latents (1/8 of the image) three times."""


def bucket_sizes(size: int, downscale: int) -> list[tuple[int, int]]:
    """(height, width) of all buckets in pixels: sides from size / 2 to 2 * size, at most size * size pixels.

    Sides are multiples of 64, or of size / 4 if that is less.

    Raises:
        ConfigError: this step is not a multiple of ``downscale``.
    """
    step = min(_STEP, size // 4)
    if not step or step % downscale:
        raise ConfigError(f"aspect ratio buckets need an image size that is a multiple of {4 * downscale}, got {size}")
    sides = [(height, size**2 // height // step * step) for height in range(step, 2 * size + 1, step)]
    buckets = [pair for pair in sides if size <= 2 * min(pair) and max(pair) <= 2 * size]
    return sorted({*buckets, *((width, height) for height, width in buckets)})


def bucket_of(height: int, width: int, sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The bucket with the aspect ratio nearest to an image's; the largest of several."""
    return min(sizes, key=lambda pair: (abs(math.log(pair[0] * width / (pair[1] * height))), -pair[0] * pair[1]))


def rows_by_size(sizes: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Yield each distinct size of (B, 2) int64 sizes, with its ascending row indices."""
    for size in sizes.unique(dim=0):
        height, width = size.tolist()
        yield (height, width), (sizes == size).all(1).nonzero()[:, 0]
