"""Synthetic two-colour patterns: a data set of textures and colours."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from ..data.dataset import FewShotDataset
from .glyphs import IMAGE_SIZE, INKS, PAPERS

__all__ = ["texture_dataset"]

_COLOURS = (("red", "white"), ("blue", "yellow"))
_PATTERNS = {
    "stripes": lambda x, y: torch.sin(y),
    "columns": lambda x, y: torch.sin(x),
    "checks": lambda x, y: torch.sin(x) * torch.sin(y),
    "dots": lambda x, y: torch.cos(x) + torch.cos(y) - 0.8,
    "waves": lambda x, y: torch.sin(y + 1.5 * torch.sin(x / 2)),
    "rings": lambda x, y: torch.sin((x.square() + y.square()).sqrt()),
}


def texture_dataset(images: int = 60, seed: int = 6) -> FewShotDataset:
    """Draw twelve classes, six patterns in two pairs of colours, with random period, phase, rotation and tint."""
    generator = torch.Generator().manual_seed(seed)
    kinds = list(product(_PATTERNS, _COLOURS))
    names = tuple(f"{ink} {pattern} on {paper} paper" for pattern, (ink, paper) in kinds)
    drawn = tuple(_drawn(pattern, colours, generator) for pattern, colours in kinds for _ in range(images))
    return FewShotDataset(names, drawn, torch.arange(len(names)).repeat_interleave(images))


def _drawn(pattern: str, colours: tuple[str, str], generator: torch.Generator) -> Tensor:
    period, across, down, turn = torch.rand(4, generator=generator).tolist()
    place = (torch.arange(IMAGE_SIZE) - IMAGE_SIZE / 2) * 2 * math.pi / (10 + 8 * period)
    y, x = torch.meshgrid(place, place, indexing="ij")
    angle = 0.3 * (turn - 0.5)
    right = math.cos(angle) * x - math.sin(angle) * y + 2 * math.pi * (across - 0.5)
    below = math.sin(angle) * x + math.cos(angle) * y + 2 * math.pi * (down - 0.5)
    coverage = torch.sigmoid(4 * _PATTERNS[pattern](right, below))
    tint = (torch.rand(2, 3, generator=generator) - 0.5) * 0.12
    ink, paper = (torch.tensor(table[name]) for table, name in zip((INKS, PAPERS), colours, strict=True))
    ink, paper = ((each + own).clamp(0, 1)[:, None, None] for each, own in zip((ink, paper), tint, strict=True))
    return paper * (1 - coverage) + ink * coverage
