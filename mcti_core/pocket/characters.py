"""Synthetic handwritten characters: a data set of shapes that the pocket checkpoint was not trained on."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..data.dataset import FewShotDataset
from ..images.tensors import as_image
from .glyphs import pen_masks, render, sample_styles

__all__ = ["character_dataset"]

_SIDE, _MARGIN, _POINTS = 112, 16, 24
_HAND = 0.05
"""Standard deviation of the control points between drawings, as a fraction of the character's side."""


def character_dataset(classes: int = 12, drawings: int = 60, seed: int = 5) -> FewShotDataset:
    """Draw classes of two to four strokes (quadratic Bezier curves); drawings differ in their control points and style."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(drawings)
    strokes = torch.randint(2, 5, (classes,), generator=generator).tolist()
    forms = [torch.rand(count, 3, 2, generator=generator) for count in strokes]
    lines = [forms[c] + _HAND * torch.randn(forms[c].shape, generator=generator) for c in labels.tolist()]
    styles = sample_styles(len(labels), generator)
    masks = pen_masks(torch.stack([_drawn(each) for each in lines]))
    images, _ = render(masks[torch.arange(len(labels)), styles.pen], styles)
    return FewShotDataset(tuple(f"character {number}" for number in range(1, classes + 1)), tuple(images), labels)


def _drawn(strokes: Tensor) -> Tensor:
    """Thin lines (112, 112) in [0, 1] for control points (S, 3, 2) in [0, 1]."""
    t = torch.linspace(0, 1, _POINTS)[:, None]
    start, middle, end = (strokes[:, None, k] for k in range(3))
    curves = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end  # (S, points, 2)
    picture = Image.new("RGB", (_SIDE, _SIDE))
    draw = ImageDraw.Draw(picture)
    for curve in (_MARGIN + (_SIDE - 2 * _MARGIN) * curves).tolist():
        draw.line([(x, y) for x, y in curve], fill=(255, 255, 255), width=3)
    return as_image(picture, "a character")[0]
