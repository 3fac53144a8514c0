"""Preprocess images for CLIP vision towers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CLIP_MEAN", "CLIP_STD", "clip_preprocess"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_preprocess(
    images: Tensor, size: int, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, 3, size, size) normalised; resized with bicubic interpolation and antialiasing."""
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return (images - torch.tensor(mean).view(3, 1, 1).to(images)) / torch.tensor(std).view(3, 1, 1).to(images)
