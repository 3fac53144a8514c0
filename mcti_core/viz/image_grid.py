"""Grids of labelled images, as PIL images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import ConfigError
from .text import INK, PAPER, SOFT, draw_text, text_width, truncate

__all__ = ["image_grid", "to_pil"]


def image_grid(
    rows: Sequence[Sequence[Tensor]], row_labels: Sequence[str], column_labels: Sequence[str] | None = None, scale: float = 1
) -> Image.Image:  # fmt: skip
    """Arrange images in rows, with a label before each row and optionally above each column.

    Args:
        rows: images (3, H, W) float in [0, 1]; rows may differ in length, images in size.
        row_labels: one per row; "" for no label.
        column_labels: one per column.
        scale: enlarges (with sharp pixels) or shrinks every image.

    Raises:
        ConfigError: no images, a wrong number of labels, images of another type, or a scale that leaves no pixels.
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns or len(row_labels) != len(rows) or (column_labels is not None and len(column_labels) < columns):
        raise ConfigError(
            f"an image grid needs images and one label per row and column, got {len(rows)} rows of up to {columns} and {len(row_labels)} labels"
        )
    pictures = [[to_pil(image, scale) for image in row] for row in rows]
    width = max(picture.width for row in pictures for picture in row)
    height = max(picture.height for row in pictures for picture in row)
    size = round(min(26, max(12, 9 + height / 28)))
    gap, margin = max(3, size // 4), size
    names = [truncate(name, size, max(12 * size, width)) for name in row_labels]
    heads = [truncate(name, size, width) for name in column_labels or ()]
    left = margin + max((text_width(name, size) + margin for name in names if name), default=0)
    top = margin + (2 * size if any(heads) else 0)
    right, bottom = left + columns * (width + gap) - gap, top + len(rows) * (height + gap) - gap
    sheet = Image.new("RGB", (right + margin, bottom + margin), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(heads[:columns]):
        middle = left + column * (width + gap) + width // 2
        draw_text(draw, (middle, top - size // 2), name, size, SOFT, "mb")
    for row, line in enumerate(pictures):
        y = top + row * (height + gap)
        draw_text(draw, (left - margin, y + height // 2), names[row], size, INK, "rm")
        for column, picture in enumerate(line):
            x = left + column * (width + gap)
            sheet.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
    return sheet


def to_pil(image: Tensor, scale: float = 1) -> Image.Image:
    """Convert a (3, H, W) float image in [0, 1] to a PIL image, enlarged with sharp pixels or shrunk smoothly."""
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ConfigError(f"images must be float tensors (3, H, W) in [0, 1], got {image.dtype} {tuple(image.shape)}")
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)  # (H, W, 3)
    size = round(image.shape[2] * scale), round(image.shape[1] * scale)
    if min(size) < 1:
        raise ConfigError(f"scale {scale} leaves no pixels of an image of {image.shape[2]} x {image.shape[1]} pixels")
    kind = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return Image.fromarray(pixels.numpy()).resize(size, kind)
