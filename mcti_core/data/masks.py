"""Masks that limit the reconstruction term to their white part, in the layouts of kohya's scripts and OneTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ..errors import ExamplesError
from ..files.kinds import IMAGE_SUFFIXES
from ..images.reading import UnreadableError, image_size, load_mask, to_size
from .captions import existing

__all__ = ["ALPHA", "MASKLABEL", "find_masks", "latent_mask"]

MASKLABEL = "masklabel"
"""OneTrainer's layout: ``cat-masklabel.png`` in the same folder as ``cat.jpg``."""
ALPHA = "alpha"
"""kohya's alpha_mask: the image's alpha channel."""
_ASPECT = 1.02
"""Maximum ratio between the aspect ratios of mask and image, since sides are whole pixels."""


def find_masks(images: Sequence[Path], where: str | Path) -> dict[Path, Path]:
    """Image -> its mask; the image itself for ``ALPHA``. Images without a mask are left out.

    Args:
        where: ``MASKLABEL``, ``ALPHA``, or a folder like kohya's conditioning_data_dir: one folder per class, with masks named
            like the images, except for the suffix.

    Raises:
        ExamplesError: no image has a mask.
    """
    if where == ALPHA:
        return {image: image for image in images}
    if where == MASKLABEL:
        candidates = {image: [image.with_name(f"{image.stem}-masklabel.png")] for image in images}
    else:
        likes = {image: Path(where) / image.parent.name / image.name for image in images}
        candidates = {i: [like, *map(like.with_suffix, IMAGE_SUFFIXES)] for i, like in likes.items()}
    found = existing(candidates)
    if not found:
        expected = next(iter(candidates.values()), [Path(where)])[0]
        raise ExamplesError(f"no image has a mask; {expected} would be the first one's")
    return found


def latent_mask(image: Path, mask: Path, pixels: tuple[int, int], latents: tuple[int, int]) -> Tensor:
    """Crop a mask like its image, and resize it to the latents: (h, w) float32 in [0, 1].

    Args:
        image: the image's file.
        mask: the mask's file; the image's own for its alpha channel.
        pixels: height and width of the cropped image, in pixels.
        latents: h and w.

    Raises:
        UnreadableError: the mask cannot be read, has a different aspect ratio than the image, or is black after cropping.
    """
    content = load_mask(mask, alpha=mask == image)
    ratios = [height / width for height, width in (content.shape[1:], image_size(image))]
    if max(ratios) > _ASPECT * min(ratios):
        raise UnreadableError(mask, f"as a mask it needs the aspect ratio of {image}")
    weights = F.interpolate(to_size(content, *pixels)[None], latents, mode="area")[0, 0]
    if not weights.any():
        raise UnreadableError(mask, "as a mask it leaves nothing to learn: white is learned, black is not")
    return weights
