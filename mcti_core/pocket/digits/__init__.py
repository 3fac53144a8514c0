"""Handwritten digits, shipped with the project, drawn in coloured ink on coloured paper."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ...data.dataset import FewShotDataset
from ...errors import FileError
from ..glyphs import MASK_SIZE, centred, render, sample_styles, sharpen

__all__ = ["DIGITS_FILE", "digit_dataset", "digit_masks", "draw_digits", "write_class_folders"]

DIGITS_FILE = Path(__file__).parent / "digits.safetensors"
"""The scans; README.md in the same folder names their source."""


def digit_masks() -> tuple[Tensor, Tensor]:
    """All 1,797 digits as pen masks (N, 72, 72) uint8, and their labels (N,) int64.

    The originals are 8 x 8 pixels of 17 grey levels (the UCI optical digits' test set, by 13 writers).
    """
    digits = load_file(DIGITS_FILE)
    grey = F.pad(digits["images"].float()[:, None] / 16, (2, 2, 2, 2))  # (N, 1, 12, 12)
    side = 2 * MASK_SIZE
    smooth = sharpen(F.interpolate(grey, size=(side, side), mode="bicubic", align_corners=False))
    masks = torch.cat([F.avg_pool2d(centred(drawing, side), 2) for drawing in smooth[:, 0]])
    return (masks[:, 0].clamp(0, 1) * 255).round().byte(), digits["labels"].long()


def draw_digits(masks: Tensor, seed: int = 77) -> Tensor:
    """Render masks (N, 72, 72) as images (N, 3, 64, 64) in [0, 1], each in a random style."""
    images, _ = render(masks, sample_styles(len(masks), torch.Generator().manual_seed(seed)))
    return images


def digit_dataset() -> FewShotDataset:
    """Ten classes, 1,797 images. Training does not use the meaning of the labels."""
    masks, labels = digit_masks()
    return FewShotDataset(tuple(str(digit) for digit in range(10)), tuple(draw_digits(masks)), labels)


def write_class_folders(dataset: FewShotDataset, folder: Path) -> None:
    """Write the images of a dataset as ``folder/<class>/<number>.png``.

    Raises:
        FileError: one of the files exists; nothing is written.
    """
    labels = dataset.labels.tolist()
    paths = [folder / dataset.classes[label] / f"{number:04d}.png" for number, label in enumerate(labels)]
    if there := next((path for path in paths if os.path.lexists(path)), None):
        raise FileError(f"{there} exists already; choose a new folder")
    for path, image in zip(paths, dataset.images, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(image, Tensor)
        Image.fromarray((image.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)).save(path)
