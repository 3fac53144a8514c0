"""The loss of MC-TI: L = L_ldm + gamma * L_cls. Pure functions, one value per sample; the caller takes the mean.

L_ldm is ``Denoiser.weight`` times ``noise_error``, and L_cls is ``classification_loss``. ``training/adaptive_gamma.py`` chooses
gamma, ``training/schedules.py`` has the schedule of a given one.

References:
    "Multi-Class Textual-Inversion Secretly Yields a Semantic-Agnostic Classifier", WACV 2025, arXiv 2410.22317.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ConfigError

__all__ = ["DIRECTIONS", "class_logits", "classification_loss", "noise_error"]

DIRECTIONS = ("text_to_image", "image_to_text", "symmetric")


def noise_error(latents: Tensor, estimate: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of the prediction, computed from a denoised estimate: the mean of ((x0 - x0_hat) / sigma)^2.

    For x = x0 + sigma * eps, (x - x0_hat) / sigma is the predicted noise, so this is the epsilon error of DDPM (Ho et al.
    2020, eq. 14), also if the model predicts v. For a rectified flow, x = (1 - sigma) * x0 + sigma * eps, it is the
    velocity's error. ``Denoiser.weight`` is a factor for models that are trained with another weighting.

    Args:
        latents, estimate: (B, c, h, w) the clean x0, and the model's x0_hat.
        sigma: (B,).
        mask: (B, h, w) weights in [0, 1], not all zero: the mean is weighted by them. Without it, all count equally.

    Returns:
        (B,) float32.
    """
    difference = (latents.float() - estimate.float()) / sigma.float().view(-1, 1, 1, 1)
    if mask is None:
        return difference.square().mean(dim=(1, 2, 3))
    return (difference.square().mean(dim=1) * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))


def class_logits(text: Tensor, images: Tensor, scale: float) -> Tensor:
    """Scaled cosine similarities: (S, p) text features, (C, p) image features, not normalised -> (S, C)."""
    return scale * F.normalize(text, dim=-1) @ F.normalize(images, dim=-1).T


def classification_loss(logits: Tensor, classes: Tensor, direction: str) -> Tensor:
    """L_cls, the cross-entropy over classes.

    The released procedure trains one class per run: one text row against one image of every class (``text_to_image``).
    Training all classes jointly gives the full matrix, which also allows classifying images by texts
    (``image_to_text``), as the classifier does, or both (``symmetric``, the mean of the two, as in CLIP).

    Args:
        logits: (S, C) of the text features of the S classes ``classes`` against one image of each of C classes.
        classes: (S,) int64, distinct: the column of each row's own class.
        direction: one of ``DIRECTIONS``.

    Returns:
        (S,) float32.
    """
    if direction not in DIRECTIONS:
        raise ConfigError(f"direction {direction!r} is not one of {', '.join(DIRECTIONS)}")
    by_text = F.cross_entropy(logits, classes, reduction="none")
    if direction == "text_to_image":
        return by_text
    own_columns = logits[:, classes].T  # (S images, S texts)
    by_image = F.cross_entropy(own_columns, torch.arange(len(classes), device=logits.device), reduction="none")
    return by_image if direction == "image_to_text" else (by_text + by_image) / 2
