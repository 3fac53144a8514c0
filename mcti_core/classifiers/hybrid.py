"""Classify by tokens and examples together: text features, class means of the example features, and a logistic probe."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, TokenError
from ..files.limits import MAX_LOGITS
from ..hosts.base import Host
from ..images.tensors import as_batch
from ..tokens.token_set import Support, TokenSet
from .base import Classifier, Scores, no_evaluations
from .clip import ClipClassifier, image_features
from .logistic import LogisticRegression
from .stacking import held_out_logits, stacking_weights

__all__ = ["AUTO", "HybridClassifier", "class_means", "left_out_gain"]

AUTO = "auto"
_INITIAL_WEIGHTS = (1.0, 0.25, 2.0)
"""Initial weights of token, class mean and probe: the best ones for 2, 5 and 8 shots on characters that no table reports."""


class HybridClassifier(Classifier):
    """Weighted sum of the logits of the token, the class mean of the example features, and a logistic probe on these.

    With a number as ``weight``, the token has weight 1, the class mean ``weight``, and there is no probe. With
    ``"auto"`` the three weights minimise the cross-entropy of left-out examples (``stacking.py``).

    Args:
        host: a host with a CLIP space.
        tokens: a set with support features.
        weight: weight of the class means, or ``"auto"``; with 0 it is the CLIP classifier.

    Raises:
        TokenError: the tokens have no support features.
    """

    def __init__(
        self,
        host: Host,
        tokens: TokenSet,
        *,
        templates: tuple[str, ...] | None = None,
        logit_scale: float = 10.0,
        weight: float | str = AUTO,
    ):
        if tokens.support is None:
            raise TokenError(
                "these tokens have no features of their examples; train them with a CLIP space, or use the method 'clip'"
            )
        if isinstance(weight, str) and weight != AUTO:
            raise ConfigError(f"the weight of the class means must be a number or {AUTO!r}, got {weight!r}")
        self.tokens = ClipClassifier(host, tokens, templates=templates, logit_scale=logit_scale)
        self.host, self.labels, self.image_size = host, tokens.labels, host.image_size
        self.support = tokens.support.of_width(self.tokens.text.shape[1])
        features, labels, classes = self.support.features, self.support.labels, len(self.labels)
        self.means = class_means(features, labels, classes)
        self.weights = torch.tensor([1.0, 0.0 if isinstance(weight, str) else weight, 0.0])
        """(3,) float32 weights of token, class mean and probe."""
        self._probe: LogisticRegression | None = None
        self._held_out: Tensor | None = None
        if weight == AUTO:
            every_class = bool(
                (torch.bincount(labels, minlength=classes) > 0).all()
            )  # a probe needs examples of each class
            if every_class and classes > 1 and len(features) * classes <= MAX_LOGITS:
                self._probe = LogisticRegression(features, labels, classes)
                self._weigh(features, labels, classes)
            else:
                self.weights[1] = 1.0

    def _weigh(self, features: Tensor, labels: Tensor, classes: int) -> None:
        token = self.tokens.logits(features)
        token[torch.arange(len(labels)), labels] -= self.tokens.logit_scale * left_out_gain(
            self.tokens.text, self.support
        )
        self._held_out = held_out_logits(
            features, labels, classes, lambda some, theirs: LogisticRegression(some, theirs, classes).logits
        )
        self.weights = stacking_weights([token, self._left_out_affinity(), self._held_out], labels, _INITIAL_WEIGHTS)

    def scores(self, images: Any) -> Scores:
        images = as_batch(images)
        return Scores(self.logits(image_features(self.host, images)), no_evaluations(len(images)))

    def logits(self, features: Tensor) -> Tensor:
        """(B, p) image features -> (B, C)."""
        unit = F.normalize(features.float(), dim=-1)
        token, mean, probe = self.weights.tolist()
        logits = token * self.tokens.logits(unit) + mean * self.tokens.logit_scale * unit @ self.means.T
        return logits if self._probe is None else logits + probe * self._probe.logits(unit)

    def left_out_logits(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """(n, C) logits of the examples at these (n,) indices, where class means and probe are computed without the example itself.

        The only example of a class leaves no mean, so its row has the logits of the tokens for all classes: cosines of
        images with texts and with images cannot be mixed.
        """
        token = self.tokens.logits(self.support.features[rows])
        weights = self.weights.tolist()
        parts = [token, self._left_out_affinity(rows)]
        if self._held_out is not None:
            parts.append(self._held_out[rows])
        parts = [torch.where(part.isfinite(), part, token) for part in parts]
        return torch.stack([weight * part for weight, part in zip(weights, parts, strict=False)]).sum(0)

    def _left_out_affinity(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """(n, C) scaled cosines with the class means without the example itself; NaN for the only example of a class."""
        counts = torch.bincount(self.support.labels, minlength=len(self.labels))
        sums = torch.zeros_like(self.means).index_add_(0, self.support.labels, self.support.features)
        features, labels = self.support.features[rows], self.support.labels[rows]
        affinity = self.tokens.logit_scale * features @ self.means.T
        others = F.normalize(sums[labels] - features, dim=-1)  # (N, p) mean of the class's other examples
        affinity[torch.arange(len(labels)), labels] = self.tokens.logit_scale * (others * features).sum(1)
        return affinity.masked_fill((counts[labels] < 2)[:, None], torch.nan)


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(N, p) unit features, (N,) labels -> (C, p) unit means."""
    sums = torch.zeros(classes, features.shape[1]).index_add_(0, labels, features.float())
    return F.normalize(sums, dim=-1)


def left_out_gain(text: Tensor, support: Support) -> Tensor:
    """Estimate by how much training on an example raised its cosine with its own class's token (see ``calibration.py``).

    Args:
        text: (C, p) unit text features of the tokens.
        support: the examples.

    Returns:
        (N,) float32, not negative; 0 for the only example of a class.
    """
    features, labels = support.features, support.labels
    means = class_means(features, labels, len(text))
    sums = torch.zeros_like(means).index_add_(0, labels, features)
    others = F.normalize(sums[labels] - features, dim=-1)  # (N, p) the means without the example
    gain = ((means[labels] - others) * features).sum(1)
    along = (text * means).sum(1).clamp(min=0)[labels]  # (N,) rho
    return torch.where(torch.bincount(labels)[labels] > 1, along * gain, 0.0)
