"""Strokes: thin printed letters to pen lines, and bend lines as different hands would draw them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..glyphs import IMAGE_SIZE

__all__ = ["random_bend", "thinned"]

_RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def thinned(shapes: Tensor) -> Tensor:
    """Thin filled shapes (N, H, W) bool, which do not touch the border, to lines one pixel wide.

    References:
        Zhang and Suen 1984, "A fast parallel algorithm for thinning digital patterns".
    """
    shapes = shapes.clone()
    while True:
        before = shapes.clone()
        for corner in (0, 1):
            ring = torch.stack([shapes.roll((-down, -right), (1, 2)) for down, right in _RING])  # (8, N, H, W)
            north, east, south, west = ring[0], ring[2], ring[4], ring[6]
            neighbours = ring.sum(0)
            rises = (~ring & ring.roll(-1, 0)).sum(0)
            if corner == 0:
                edge = ~(north & east & south) & ~(east & south & west)
            else:
                edge = ~(north & east & west) & ~(north & south & west)
            shapes &= ~((neighbours >= 2) & (neighbours <= 6) & (rises == 1) & edge)
        if bool((shapes == before).all()):
            return shapes


def random_bend(count: int, generator: torch.Generator | None = None, *, most: float = 0.09) -> Tensor:
    """(count, 64, 64, 2) smooth displacements for ``render``: 0 for two fifths of the drawings, otherwise up to about 2 * ``most``."""
    strength = most * torch.rand(count, 1, 1, 1, generator=generator)
    strength = strength * (torch.rand(count, 1, 1, 1, generator=generator) < 0.6)
    coarse = strength * torch.randn(count, 2, 5, 5, generator=generator)
    fine = F.interpolate(coarse, size=IMAGE_SIZE, mode="bicubic", align_corners=True)
    return fine.permute(0, 2, 3, 1)
