"""Captions and masks in files beside the images, in the layouts of kohya's scripts and OneTrainer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ..errors import ExamplesError, TokenError
from ..files.kinds import IMAGE_SUFFIXES
from ..files.limits import check_counts
from ..files.regular import read_limited
from ..files.written_paths import decoded_lines
from ..images.reading import UnreadableError, image_size, load_mask, to_size
from ..prompts.splicing import check_templates
from . import ALPHA, MASKLABEL

__all__ = ["ALPHA", "MASKLABEL", "find_captions", "find_masks", "latent_mask", "read_caption"]

_CAPTION_SUFFIXES = (".txt", ".caption")
_MAX_CAPTION_BYTES = 2**16
_MAX_ASPECT_RATIO = 1.02
"""Maximum ratio between the aspect ratios of mask and image, since sides are whole pixels."""


def find_captions(images: Iterable[Path]) -> dict[Path, Path]:
    """Image -> its .txt or .caption file; images without one are left out."""
    return _first_files({image: [image.with_suffix(suffix) for suffix in _CAPTION_SUFFIXES] for image in images})


def read_caption(path: Path) -> str:
    """The first nonempty line as a template, after "{}, " if it has no ``{}`` for the token; "" for an empty file.

    Raises:
        ExamplesError: the file cannot be read, or the line is too long or not a template.
    """
    try:
        content = read_limited(path, _MAX_CAPTION_BYTES)
    except OSError as error:
        raise ExamplesError(f"the caption {path} cannot be read ({error}); replace or remove it") from error
    caption = next(filter(None, map(str.strip, decoded_lines(content))), "")
    if not caption:
        return ""
    caption = caption if "{}" in caption else f"{{}}, {caption}"
    try:
        check_counts((), [caption])
        check_templates([caption])
    except TokenError as error:
        raise ExamplesError(f"the caption {path} cannot be used: {error}") from error
    return caption


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
    found = _first_files(candidates)
    if not found:
        expected = next(iter(candidates.values()), [Path(where)])[0]
        raise ExamplesError(f"no image has a mask; {expected} would be the first one's")
    return found


def latent_mask(image: Path, mask: Path, pixels: tuple[int, int], latents: tuple[int, int]) -> Tensor:
    """Crop a mask like its image, and resize it to the latents: (h, w) float32 in [0, 1].

    Args:
        mask: the mask's file; the image's own for its alpha channel.
        pixels: height and width of the cropped image, in pixels.
        latents: h and w.

    Raises:
        UnreadableError: the mask cannot be read, has a different aspect ratio than the image, or is black after cropping.
    """
    content = load_mask(mask, alpha=mask == image)
    ratios = [height / width for height, width in (content.shape[1:], image_size(image))]
    if max(ratios) > _MAX_ASPECT_RATIO * min(ratios):
        raise UnreadableError(mask, f"as a mask it needs the aspect ratio of {image}")
    weights = F.interpolate(to_size(content, *pixels)[None], latents, mode="area")[0, 0]
    if not weights.any():
        raise UnreadableError(mask, "as a mask it leaves nothing to learn: white is learned, black is not")
    return weights


def _first_files(candidates: Mapping[Path, Iterable[Path]]) -> dict[Path, Path]:
    """Image -> the first of its candidates that is a file; images without one are left out."""
    return {image: path for image, paths in candidates.items() if (path := next(filter(os.path.isfile, paths), None))}
