"""Classify by CLIP: the class whose token's text feature is nearest to the image's feature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..hosts.base import Host
from ..prompts import encode_prompts, template_prompts
from ..tokens import TokenSet
from .base import Scores, no_evaluations

__all__ = ["ClipClassifier", "class_text_features"]


class ClipClassifier:
    """argmax_c cos(image feature, text feature of v_c). One pass of the vision tower an image.

    Args:
        host: with a CLIP space.
        tokens: the classes.
        templates: prompts whose features are averaged; the tokens' own by default.
        logit_scale: of the cosines.
    """

    def __init__(
        self, host: Host, tokens: TokenSet, *, templates: tuple[str, ...] | None = None, logit_scale: float = 10.0
    ):
        self.host, self.labels, self.logit_scale = host, tokens.labels, logit_scale
        self.temperature, self.threshold = 1.0, 0.0
        self.text = class_text_features(host, tokens, templates)  # (C, p)

    def score(self, images: Tensor) -> Scores:
        with torch.inference_mode(), self.host.session("clip"):
            features = self.host.need_clip().image_features(images.to(self.host.device))
        return Scores(self.logits(features.cpu()), no_evaluations(len(images)))

    def logits(self, features: Tensor) -> Tensor:
        """(B, p) image features -> (B, C)."""
        return self.logit_scale * F.normalize(features.float(), dim=-1) @ self.text.T


def class_text_features(
    host: Host, tokens: TokenSet, templates: tuple[str, ...] | None = None, batch: int = 256
) -> Tensor:
    """Unit text feature of every class, averaged over templates: (C, p) float32 on the CPU."""
    templates = templates or tokens.templates
    clip = host.need_clip()
    prompts = {
        name: template_prompts(encoder, templates, tokens.vectors_per_token).without_padding()
        for name, encoder in host.text.items()
    }
    rows = torch.cartesian_prod(torch.arange(len(tokens)), torch.arange(len(templates))).view(-1, 2)  # (C * K, 2)
    parts = []
    with torch.inference_mode(), host.session("text"):
        for part in rows.split(batch):
            picked = {name: p.rows(part[:, 1]) for name, p in prompts.items()}
            text = encode_prompts(
                host, picked, {name: v[part[:, 0]].to(host.device) for name, v in tokens.vectors.items()}
            )
            position = picked[clip.encoder].pooled_at(tokens.pooling).to(host.device)
            pooled = text[clip.encoder].hidden[torch.arange(len(part), device=host.device), position]
            parts.append(F.normalize(clip.project_text(pooled), dim=-1).cpu())
    features = torch.cat(parts).view(len(tokens), len(templates), -1).mean(1)  # (C, p)
    return F.normalize(features, dim=-1).clone()
