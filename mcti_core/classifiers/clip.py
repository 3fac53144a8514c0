"""Classify by CLIP: the class whose text feature has the largest cosine with the image's feature."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..hosts.base import Host
from ..hosts.features import hidden_at, on_device
from ..hosts.out_of_memory import TEXT_TOO_LARGE, in_parts_that_fit
from ..images.tensors import as_batch
from ..prompts.splicing import encode_prompts, template_prompts
from ..tokens.token_set import TokenSet
from .base import Classifier, Scores, reject_nan

__all__ = ["ClipClassifier", "class_text_features", "image_features"]

_IMAGES_PER_BATCH = 16
"""Least number of images per batch of the vision tower. With ViT-L this keeps a GPU busy, and fits on a 4 GB card beside SD 1.5."""
_PIXELS_PER_BATCH = _IMAGES_PER_BATCH * 512 * 512
"""Of images smaller than 512 x 512, as many as have so many pixels."""
_PROMPTS_PER_BATCH = 256
_TOO_LARGE = "a single image does not fit into memory in the CLIP image encoder; give smaller images, or free memory that other programs use"


class ClipClassifier(Classifier):
    """argmax_c cos(image feature, text feature of v_c). One pass of the vision tower per image.

    Args:
        templates: prompts whose features are averaged; by default the tokens' own.
        logit_scale: factor of the cosines.
    """

    def __init__(
        self, host: Host, tokens: TokenSet, *, templates: tuple[str, ...] | None = None, logit_scale: float = 10.0
    ):
        self.host, self.labels, self.logit_scale = host, tokens.labels, logit_scale
        self.image_size = host.image_size
        self.text = class_text_features(host, tokens, templates or tokens.templates)  # (C, p)

    def scores(self, images: Any) -> Scores:
        images = as_batch(images)
        return Scores(self.logits(image_features(self.host, images)), torch.zeros(len(images), dtype=torch.long))

    def logits(self, features: Tensor) -> Tensor:
        """(B, p) image features -> (B, C). Raises: HostError: values that are not numbers."""
        return reject_nan(self.logit_scale * F.normalize(features.float(), dim=-1) @ self.text.T)


def image_features(host: Host, images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> CLIP image features (B, p) float32 on the CPU, not normalised."""
    clip = host.require_clip()
    at_once = max(_IMAGES_PER_BATCH, _PIXELS_PER_BATCH // (images.shape[-1] * images.shape[-2]))
    with torch.inference_mode(), host.session("clip"):
        features = in_parts_that_fit(
            lambda part: clip.image_features(images[part].to(host.device)).cpu(), len(images), at_once, _TOO_LARGE
        )
    return torch.cat(features)


def class_text_features(host: Host, tokens: TokenSet, templates: tuple[str, ...]) -> Tensor:
    """Unit text feature of every class, averaged over templates: (C, p) float32 on the CPU."""
    clip = host.require_clip()
    # the other encoders' features are for the denoiser
    prompts = template_prompts(host.text[clip.encoder], templates, tokens.vectors_per_token).without_padding()
    rows = torch.cartesian_prod(torch.arange(len(tokens)), torch.arange(len(templates))).view(-1, 2)  # (C * K, 2)

    def encode(part: slice) -> Tensor:
        classes, template = rows[part].T
        part_prompts = prompts.rows(template)
        vectors = {name: on_device(v[classes], host.device) for name, v in tokens.vectors.items()}
        text = encode_prompts(host, {clip.encoder: part_prompts}, vectors)[clip.encoder]
        pooled = hidden_at(text.hidden, part_prompts.pooling_position(tokens.pooling))
        return F.normalize(clip.project_text(pooled), dim=-1).cpu()

    with torch.inference_mode(), host.session("text"):
        parts = in_parts_that_fit(encode, len(rows), _PROMPTS_PER_BATCH, TEXT_TOO_LARGE)
    features = torch.cat(parts).view(len(tokens), len(templates), -1).mean(1)  # (C, p)
    return F.normalize(features, dim=-1).clone()
