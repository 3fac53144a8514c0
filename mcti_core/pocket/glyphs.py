"""Images of the pocket checkpoint: handwritten glyphs in coloured ink on coloured paper.

The palette, pens, random styles, renderer and captions are in one module, so that the recipe that trains the checkpoint
and the demo that tests it draw in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "IMAGE_SIZE",
    "INKS",
    "MASK_SIZE",
    "PAPERS",
    "PENS",
    "SIZES",
    "SLANTS",
    "Styles",
    "caption",
    "centred",
    "pen_masks",
    "render",
    "sample_styles",
    "sharpen",
]

IMAGE_SIZE = 64
"""Side of a rendered image in pixels."""
MASK_SIZE = 72
"""Side of a pen mask in pixels; the glyph fills about 0.69 of it."""

INKS = {
    "black": (0.06, 0.06, 0.06),
    "red": (0.80, 0.10, 0.12),
    "green": (0.08, 0.50, 0.18),
    "blue": (0.12, 0.22, 0.80),
    "purple": (0.50, 0.12, 0.60),
    "brown": (0.42, 0.24, 0.08),
}
PAPERS = {
    "white": (0.95, 0.95, 0.95),
    "yellow": (0.96, 0.90, 0.35),
    "pink": (0.98, 0.73, 0.80),
    "sky": (0.62, 0.84, 0.97),
    "orange": (0.98, 0.70, 0.35),
}
SIZES = ("", "tiny", "huge")
PENS = ("thin", "", "thick", "thick")
"""Words for the four masks of a drawing; the last is a thick pen seen at low resolution."""
SLANTS = ("", "slanted")

_GLYPH_SHARE = 66 / 96
_INK_RGB = torch.tensor(list(INKS.values()))
_PAPER_RGB = torch.tensor(list(PAPERS.values()))


@dataclass(frozen=True)
class Styles:
    """Styles of B glyphs. All fields except the last two are int64 indices of shape (B,)."""

    ink: Tensor
    paper: Tensor
    size: Tensor
    pen: Tensor
    slant: Tensor
    pose: Tensor
    """(B, 5) uniform in [0, 1): size, shear, angle, vertical and horizontal shift within the style's ranges."""
    tint: Tensor
    """(B, 2, 3) offsets of ink and paper colour in [-0.06, 0.06]."""


def sample_styles(count: int, generator: torch.Generator | None = None) -> Styles:
    """Random styles: any ink on any paper, a quarter of them black on white."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    black_on_white = uniform(count) < 0.25
    ink = torch.randint(0, len(INKS), (count,), generator=generator).masked_fill(black_on_white, 0)
    paper = torch.randint(0, len(PAPERS), (count,), generator=generator).masked_fill(black_on_white, 0)
    size = torch.bucketize(uniform(count), torch.tensor([0.6, 0.8]))
    pen = torch.bucketize(uniform(count), torch.tensor([0.25, 0.50, 0.75]))
    slant = (uniform(count) < 0.2).long()
    return Styles(ink, paper, size, pen, slant, uniform(count, 5), (uniform(count, 2, 3) - 0.5) * 0.12)


def pen_masks(drawings: Tensor) -> Tensor:
    """Draw thin line drawings with each pen, centred and scaled to the same size.

    Args:
        drawings: (N, H, W) float in [0, 1], 1 is ink.

    Returns:
        (N, 4, 72, 72) uint8 in [0, 255], in the order of ``PENS``.
    """
    side = 2 * MASK_SIZE
    masks = torch.empty(len(drawings), len(PENS), MASK_SIZE, MASK_SIZE, dtype=torch.uint8)
    for i, drawing in enumerate(drawings):
        line = centred(drawing, side)
        pens = [F.max_pool2d(line, width, 1, width // 2) for width in (5, 7, 13)]
        margin = side // 8
        coarse = F.adaptive_avg_pool2d(pens[2][:, :, margin:-margin, margin:-margin], 9)
        coarse = F.pad(sharpen(F.interpolate(coarse, size=side - 2 * margin, mode="bicubic")), (margin,) * 4)
        stack = torch.cat([*pens, coarse], dim=1)  # (1, 4, 144, 144)
        masks[i] = (F.avg_pool2d(stack, 2)[0].clamp(0, 1) * 255).round().byte()
    return masks


def sharpen(mask: Tensor) -> Tensor:
    """Sharpen the soft edges of an enlarged mask."""
    mask = torch.sigmoid((mask - 0.55) * 9)
    return mask * (mask > 0.03)


def centred(drawing: Tensor, side: int) -> Tensor:
    """(H, W) -> (1, 1, side, side), with the ink's bounding box centred and scaled to the usual share of the frame."""
    height, width = drawing.shape
    rows, columns = (drawing > 0.3).any(1).nonzero(), (drawing > 0.3).any(0).nonzero()
    top, bottom, left, right = rows[0].item(), rows[-1].item() + 1, columns[0].item(), columns[-1].item() + 1
    half = max(bottom - top, right - left, height * 0.12) / 2 / _GLYPH_SHARE
    transform = torch.tensor(
        [[2 * half / width, 0, (left + right) / width - 1], [0, 2 * half / height, (top + bottom) / height - 1]]
    )
    grid = F.affine_grid(transform[None], [1, 1, side, side], align_corners=False)
    return F.grid_sample(drawing[None, None], grid, align_corners=False)


def render(
    masks: Tensor, styles: Styles, quarter_turns: Tensor | None = None, bend: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Render B masks in B styles.

    Args:
        masks: (B, 72, 72) uint8 masks, each drawn with the pen of its style.
        styles: B styles.
        quarter_turns: (B,) number of 90 degree turns, or None.
        bend: (B, 64, 64, 2) displacements (right, down) in units of half the frame's side, or None.

    Returns:
        images (B, 3, 64, 64) float in [0, 1], and their ink coverage (B, 1, 64, 64).
    """
    count, pose = len(masks), styles.pose
    turns = torch.zeros(count) if quarter_turns is None else quarter_turns.float()
    ranges = torch.tensor([[0.90, 0.20], [0.60, 0.15], [1.20, 0.15]])[styles.size]  # (B, 2): minimum and range
    scale = ranges[:, 0] + ranges[:, 1] * pose[:, 0]
    shear = torch.where(styles.slant == 1, 0.35 + 0.2 * pose[:, 1], (pose[:, 1] - 0.5) * 0.24)
    angle = turns * math.pi / 2
    wobble = (pose[:, 2] - 0.5) * 0.3
    slanting = torch.eye(2).repeat(count, 1, 1)
    slanting[:, 0, 1] = shear
    matrix = _rotation(angle) @ _rotation(wobble) @ slanting / scale.view(-1, 1, 1)  # output -> mask coordinates
    room = (1 - _GLYPH_SHARE * scale).clamp(min=0.04) * 0.7
    shift = (pose[:, 3:5] - 0.5) * room[:, None]
    transform = torch.cat([matrix, -(matrix @ shift[..., None])], dim=2)  # (B, 2, 3)
    grid = F.affine_grid(transform, [count, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    grid = grid if bend is None else grid + bend
    coverage = F.grid_sample(masks[:, None].float() / 255, grid, align_corners=False)
    ink = (_INK_RGB[styles.ink] + styles.tint[:, 0]).clamp(0, 1)[:, :, None, None]
    paper = (_PAPER_RGB[styles.paper] + styles.tint[:, 1]).clamp(0, 1)[:, :, None, None]
    return paper * (1 - coverage) + ink * coverage, coverage


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def caption(word: str, template: str, styles: Styles, index: int, keep: np.ndarray, order: np.ndarray) -> str:
    """Describe one drawing: fill the template with the word and some attributes of the drawing's style.

    Args:
        word: the glyph's word.
        template: a text with one ``{}``.
        styles, index: the style is ``styles[index]``.
        keep: (5,) bool, which of size, slant, ink, pen and paper are mentioned.
        order: a permutation of range(4), the order of the first four before the word.
    """
    words = [
        SIZES[styles.size[index]],
        SLANTS[styles.slant[index]],
        list(INKS)[styles.ink[index]],
        PENS[styles.pen[index]],
    ]
    kept = [words[k] for k in order if keep[k] and words[k]]
    text = template.format(" ".join([*kept, word]))
    return f"{text} on {list(PAPERS)[styles.paper[index]]} paper" if keep[4] else text
