"""Masks of images, of which only the white part is learned, where kohya's scripts and OneTrainer keep them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ..errors import ExamplesError
from ..files.kinds import IMAGE_SUFFIXES
from ..images.reading import UnreadableError, image_size, load_mask, to_size

__all__ = ["ALPHA", "MASKLABEL", "find_masks", "latent_mask"]

MASKLABEL = "masklabel"
"""OneTrainer's: ``cat-masklabel.png`` beside ``cat.jpg``."""
ALPHA = "alpha"
"""kohya's alpha_mask: the image's own alpha channel."""
_ASPECT = 1.02
"""Ratio of two aspect ratios up to which they are the same, since sides are whole pixels."""


def find_masks(images: Sequence[Path], where: str | Path) -> dict[Path, Path]:
    """Image -> its mask, where there is one; the image itself where its alpha channel is the mask.

    Args:
        where: ``MASKLABEL``, ``ALPHA``, or a folder like kohya's conditioning_data_dir: it has a folder for each class, with
            masks that are named like the images, up to the suffix.

    Raises:
        ExamplesError: no image has a mask.
    """
    if where == ALPHA:
        return {image: image for image in images}
    if where == MASKLABEL:
        beside = {image: [image.with_name(f"{image.stem}-masklabel.png")] for image in images}
    else:
        folders = {image: Path(where) / image.parent.name for image in images}
        beside = {i: [f / i.name, *(f / f"{i.stem}{suffix}" for suffix in IMAGE_SUFFIXES)] for i, f in folders.items()}
    found = {image: path for image, paths in beside.items() if (path := next(filter(os.path.isfile, paths), None))}
    if not found:
        expected = next(iter(beside.values()), [Path(where)])[0]
        raise ExamplesError(f"no image has a mask; {expected} would be the first one's")
    return found


def latent_mask(image: Path, mask: Path, pixels: tuple[int, int], latents: tuple[int, int]) -> Tensor:
    """The mask of an image at the resolution of its latents, cropped like the image: (h, w) float32 in [0, 1].

    Args:
        pixels: height and width of the cropped image.
        latents: h and w.

    Raises:
        UnreadableError: the mask cannot be read, has another aspect ratio than the image, or masks all of what is seen.
    """
    content = load_mask(mask, alpha=mask == image)
    ratios = [height / width for height, width in (content.shape[1:], image_size(image))]
    if max(ratios) > _ASPECT * min(ratios):
        raise UnreadableError(mask, f"as a mask it needs the aspect ratio of {image}")
    weights = F.interpolate(to_size(content, *pixels)[None], latents, mode="area")[0, 0]
    if not weights.any():
        raise UnreadableError(mask, "as a mask it leaves nothing to learn: white is learned, black is not")
    return weights
