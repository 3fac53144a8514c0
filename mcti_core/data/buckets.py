"""Aspect ratio buckets: images keep about their shape, at about the number of pixels that the model was trained on.

References:
    NovelAI 2022, "Aspect ratio bucketing" (MIT licence); ``--enable_bucket`` of kohya's scripts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import ConfigError

__all__ = ["bucket_of", "bucket_sizes", "rows_by_size"]

_STEP = 64


def bucket_sizes(size: int, downscale: int) -> list[tuple[int, int]]:
    """(height, width) of all buckets: sides from half to twice ``size``, no more than size * size pixels.

    Sides are multiples of 64, as UNets halve latents three times; of a quarter of ``size`` if that is less.

    Raises:
        ConfigError: no such side is a multiple of ``downscale``.
    """
    step = min(_STEP, size // 4)
    if not step or step % downscale:
        raise ConfigError(
            f"the image size {size} is too small for aspect ratio buckets; give {4 * downscale} or a multiple of it"
        )
    sides = [(height, size**2 // height // step * step) for height in range(step, 2 * size + 1, step)]
    kept = [pair for pair in sides if size <= 2 * min(pair) and max(pair) <= 2 * size]
    return sorted({*kept, *((width, height) for height, width in kept)})


def bucket_of(height: int, width: int, sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The bucket whose aspect ratio is nearest to an image's; of several, the largest."""
    return min(sizes, key=lambda pair: (abs(math.log(pair[0] * width / (pair[1] * height))), -pair[0] * pair[1]))


def rows_by_size(sizes: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """(B, 2) int64 sizes -> each size with its rows, ascending."""
    for size in sizes.unique(dim=0):
        height, width = size.tolist()
        yield (height, width), (sizes == size).all(1).nonzero()[:, 0]


def padded(latents: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w) -> (..., height, width), with zeros at the bottom and at the right."""
    return torch.nn.functional.pad(latents, (0, width - latents.shape[-1], 0, height - latents.shape[-2]))
