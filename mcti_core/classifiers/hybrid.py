"""Classify by tokens and examples together: text features and class means of the few-shot image features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TokenError
from ..hosts.base import Host
from ..image_tensors import as_batch
from ..tokens import TokenSet
from .base import Scores, no_evaluations
from .clip import ClipClassifier, image_features

__all__ = ["HybridClassifier", "class_means"]


class HybridClassifier:
    """Logits of the token's text feature plus ``weight`` times those of the class mean of the stored example features.

    Args:
        host: with a CLIP space.
        tokens: with support features.
        weight: of the class means; 0 is the CLIP classifier.

    Raises:
        TokenError: the tokens carry no support features.
    """

    def __init__(
        self,
        host: Host,
        tokens: TokenSet,
        *,
        templates: tuple[str, ...] | None = None,
        logit_scale: float = 10.0,
        weight: float = 1.0,
    ):
        if tokens.support is None:
            raise TokenError(
                "these tokens carry no features of their examples; train them with a CLIP space, or use the method 'clip'"
            )
        self.tokens = ClipClassifier(host, tokens, templates=templates, logit_scale=logit_scale)
        self.host, self.labels, self.weight = host, tokens.labels, weight
        self.temperature, self.threshold = 1.0, 0.0
        self.support = tokens.support.of_width(self.tokens.text.shape[1])
        self.means = class_means(self.support.features, self.support.labels, len(self.labels))

    def score(self, images: Tensor) -> Scores:
        images = as_batch(images)
        return Scores(self.logits(image_features(self.host, images)), no_evaluations(len(images)))

    def logits(self, features: Tensor) -> Tensor:
        """(B, p) image features -> (B, C)."""
        unit = F.normalize(features.float(), dim=-1)
        return self.tokens.logits(unit) + self.weight * self.tokens.logit_scale * unit @ self.means.T

    def left_out_logits(self) -> Tensor:
        """(N, C) logits of the examples, each against class means that do not contain it.

        An example that is its class's only one has no mean without it: its row then is the tokens' alone, for all classes,
        since cosines of images with texts and with images are of different sizes.
        """
        features, labels = self.support.features, self.support.labels
        token = self.tokens.logits(features)
        affinity = self.tokens.logit_scale * features @ self.means.T
        counts = torch.bincount(labels, minlength=len(self.labels))
        sums = torch.zeros_like(self.means).index_add_(0, labels, features)
        others = F.normalize(sums[labels] - features, dim=-1)  # (N, p) own class's mean without oneself
        own = self.tokens.logit_scale * (others * features).sum(1)
        affinity[torch.arange(len(labels)), labels] = own
        affinity = torch.where((counts[labels] > 1)[:, None], affinity, token)
        return token + self.weight * affinity


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(N, p) unit features, (N,) labels -> (C, p) unit means."""
    sums = torch.zeros(classes, features.shape[1]).index_add_(0, labels, features.float())
    return F.normalize(sums, dim=-1)
