"""Classify by tokens and examples together: text features, class means of the example features, and a logistic probe."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, TokenError
from ..files.limits import MAX_LOGITS
from ..hosts.base import Host
from ..tokens.token_set import Support, TokenSet
from .clip import ClipClassifier
from .logistic import LogisticRegression
from .stacking import held_out_logits, stacking_weights

__all__ = ["AUTO", "HybridClassifier", "class_means", "left_out_gain"]

AUTO = "auto"
_NO_EXAMPLES = "these tokens have no features of their examples; train them with a CLIP space, or use the method 'clip'"
_INITIAL_WEIGHTS = (1.0, 0.25, 2.0)
"""Initial weights of token, class mean and probe: the best ones for 2, 5 and 8 shots on tuning characters, which are in no
reported result."""
_LOG = logging.getLogger(__name__)


class HybridClassifier(ClipClassifier):
    """Weighted sum of the logits of the token, the class mean of the example features, and a logistic probe on these.

    With a number as ``weight``, the token has weight 1, the class mean ``weight``, and there is no probe. With ``"auto"`` the
    three weights are 1, 0.25 and 2, each times a power of two from 1/8 to 8: those of the smallest cross-entropy on left-out
    examples, plus 3 nats per squared doubling (``stacking.py``). If a class has no example, or examples times classes exceed
    ``MAX_LOGITS`` (at five shots, from 448 classes on), ``"auto"`` is the same as the number 1.

    Args:
        host, templates, logit_scale: as for ``ClipClassifier``.
        tokens: a set with support features.
        weight: weight of the class means, or ``"auto"``; with 0 it is the CLIP classifier.

    Raises:
        TokenError: the tokens have no support features.
    """

    def __init__(
        self, host: Host, tokens: TokenSet, *, templates: tuple[str, ...] | None = None, logit_scale: float = 10.0,
        weight: float | str = AUTO,
    ):  # fmt: skip
        if tokens.support is None:
            raise TokenError(_NO_EXAMPLES)
        if isinstance(weight, str) and weight != AUTO:
            raise ConfigError(f"the weight of the class means must be a number or {AUTO!r}, got {weight!r}")
        super().__init__(host, tokens, templates=templates, logit_scale=logit_scale)
        self.support = tokens.support.of_width(self.text.shape[1])
        features, labels, classes = self.support.features, self.support.labels, len(self.labels)
        self.means = class_means(features, labels, classes)
        self.weights = torch.tensor([1.0, 1.0 if isinstance(weight, str) else weight, 0.0])
        """(3,) float32 weights of token, class mean and probe."""
        self._probe: LogisticRegression | None = None
        self._held_out: Tensor | None = None
        # a probe needs examples of each class
        stackable = bool(torch.bincount(labels, minlength=classes).all()) and len(features) * classes <= MAX_LOGITS
        if weight == AUTO and classes > 1 and not stackable:
            _LOG.info(
                "the hybrid classifier uses tokens and class means, both with weight 1, and no logistic probe, since %s",
                "there are too many classes" if len(features) * classes > MAX_LOGITS else "a class has no example",
            )
        elif weight == AUTO and classes > 1:
            self._probe = LogisticRegression(features, labels, classes)
            self._held_out = held_out_logits(features, labels, classes)
            token_logits = super().logits(features)
            token_logits[torch.arange(len(labels)), labels] -= logit_scale * left_out_gain(self.text, self.support)
            parts = [token_logits, self._left_out_mean_logits(), self._held_out]
            self.weights = stacking_weights(parts, labels, _INITIAL_WEIGHTS)

    def logits(self, features: Tensor) -> Tensor:
        """(B, p) image features -> (B, C)."""
        unit = F.normalize(features.float(), dim=-1)
        token_weight, mean_weight, probe_weight = self.weights.tolist()
        logits = token_weight * super().logits(unit) + mean_weight * self.logit_scale * unit @ self.means.T
        return logits if self._probe is None else logits + probe_weight * self._probe.logits(unit)

    def left_out_logits(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """(n, C) logits of the examples at these (n,) indices, where class means and probe are computed without the example itself.

        The only example of a class leaves no mean, so its row has the logits of the tokens for all classes: cosines of
        images with texts and with images cannot be mixed.
        """
        token = super().logits(self.support.features[rows])
        parts = [token, self._left_out_mean_logits(rows)]
        if self._held_out is not None:
            parts.append(self._held_out[rows])
        parts = [torch.where(part.isfinite(), part, token) for part in parts]
        weights = self.weights.tolist()
        return torch.stack([weight * part for weight, part in zip(weights, parts, strict=False)]).sum(0)

    def _left_out_mean_logits(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """(n, C) scaled cosines with the class means without the example itself; NaN for the only example of a class."""
        features, labels = self.support.features[rows], self.support.labels[rows]
        logits = self.logit_scale * features @ self.means.T
        own = (_left_out_means(self.support, len(self.labels))[rows] * features).sum(1)
        logits[torch.arange(len(labels)), labels] = self.logit_scale * own
        alone = torch.bincount(self.support.labels)[labels] < 2
        return logits.masked_fill(alone[:, None], torch.nan)


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(N, p) unit features, (N,) labels -> (C, p) unit means."""
    sums = torch.zeros(classes, features.shape[1]).index_add_(0, labels, features.float())
    return F.normalize(sums, dim=-1)


def left_out_gain(text: Tensor, support: Support) -> Tensor:
    """Estimate by how much training on an example raised its cosine with its own class's token (see ``calibration.py``).

    (C, p) unit text features of the tokens, N examples -> (N,) float32, not negative; 0 for the only example of a class.
    """
    features, labels = support.features, support.labels
    means = class_means(features, labels, len(text))
    gain = ((means[labels] - _left_out_means(support, len(text))) * features).sum(1)
    rho = (text * means).sum(1).clamp(min=0)[labels]  # (N,)
    return torch.where(torch.bincount(labels)[labels] > 1, rho * gain, 0.0)


def _left_out_means(support: Support, classes: int) -> Tensor:
    """(N, p) unit mean of the other examples of each example's class."""
    features, labels = support.features, support.labels
    sums = torch.zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return F.normalize(sums[labels] - features, dim=-1)
