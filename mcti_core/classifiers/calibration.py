"""Calibrate confidences, and choose a threshold for "unknown", by approximate leave-one-out on the stored example features.

A token's confidences on its own examples are higher than on new images, and true leave-one-out would need a training per
example. The effect of leaving one out is therefore estimated. Let t be the token's unit text feature, m the unit mean of
its class's example features, and m' that mean without example x. Assume that x influenced t only along m, by
rho = cos(t, m). Then without x in training the cosine of x and the token would be about

    cos(x, t) - rho * (cos(x, m) - cos(x, m'))

This is exact if t = m. The classification term uses examples in other ways too, so a small optimism remains. Fitting
to the class means in place of the tokens would avoid it, but their cosines with images are larger than those of texts,
so that the fitted temperature would not suit tokens.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, TokenError, listed
from ..files.limits import MAX_LOGITS
from ..hosts.base import Host
from ..tokens.token_set import Support, TokenSet
from . import METHODS
from .base import Classifier
from .cascade import CascadeClassifier
from .clip import ClipClassifier
from .diffusion import DiffusionClassifier
from .hybrid import HybridClassifier, left_out_gain

__all__ = [
    "Calibration", "answered_share", "calibrate", "calibrated_classifier", "check_threshold_examples", "fit_temperature",
    "resolve_method", "unknown_threshold",
]  # fmt: skip

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    temperature: float
    threshold: float
    num_samples: int
    """Number of examples that were left out, each in turn; 0 if every class has only one."""
    reached: int = 0
    """Number of left-out examples whose confidence reaches the threshold."""
    recognised: int = 0
    """Number of left-out examples whose best class is their own."""

    def describe(self) -> str:
        """The threshold, the measured share of examples, and the expected share of new images, as a sentence."""
        if not self.num_samples:
            return "no class has two examples, so no threshold could be measured, and every image gets a class"
        share, low, high = answered_share(self.reached, self.num_samples)
        return (
            f"threshold {self.threshold:.3f}: {self.reached} of {self.num_samples} examples reach it by approximate leave-one-out; of "
            f"new images of these classes about {100 * share:.0f} % will be answered with a class (95 % interval: "
            f"{100 * low:.0f} to {100 * high:.0f} %)"
        )


def calibrate(classifier: ClipClassifier, tokens: TokenSet, accept: float = 0.95) -> Calibration:
    """Set the temperature of a CLIP or hybrid classifier of these tokens, and find a threshold, by approximate leave-one-out on
    their examples: on all of them or, if examples times classes exceed ``MAX_LOGITS``, on evenly spaced ones.

    The only example of a class cannot be left out and is skipped. If every class has only one, the threshold is 0, and the
    temperature 1 (for the hybrid the sum of its weights, since its logits are that much larger).

    Args:
        accept: share of new images of these classes that are to get a class rather than ``UNKNOWN``;
            ``Calibration.describe`` says how well the examples can determine it.

    Raises:
        TokenError: the tokens have no support features.
        ConfigError: the classifier has other classes, or ``accept`` is not in (0, 1].
    """
    if tokens.support is None:
        raise TokenError("these tokens have no example features to calibrate with; train them with a CLIP space")
    if classifier.labels != tokens.labels:
        classes = f"the classifier's classes ({listed(classifier.labels)})"
        raise ConfigError(f"{classes} are not the tokens' ({listed(tokens.labels)})")
    support = tokens.support.of_width(classifier.text.shape[1])
    count, max_count = len(support.labels), max(1, MAX_LOGITS // len(tokens))
    rows = torch.arange(count) if count <= max_count else torch.arange(max_count) * count // max_count
    labels = support.labels[rows]
    usable = torch.bincount(support.labels)[labels] > 1
    logits = _left_out_logits(classifier, support, rows)
    if usable.any():
        temperature = fit_temperature(logits[usable], labels[usable])
        confidences = (logits[usable] / temperature).softmax(1).amax(1)
        threshold = unknown_threshold(confidences, accept)
        reached = int((confidences >= threshold).sum())
        recognised = int((logits[usable].argmax(1) == labels[usable]).sum())
    else:
        temperature = float(classifier.weights.sum()) if isinstance(classifier, HybridClassifier) else 1.0
        threshold, reached, recognised = 0.0, 0, 0
    classifier.temperature = temperature
    return Calibration(temperature, threshold, int(usable.sum()), reached, recognised)


def resolve_method(method: str, host: Host) -> str:
    """The method, with ``"auto"`` replaced by the one that the host supports. Raises: ConfigError: an unknown method."""
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if method == "auto":
        return "diffusion" if host.clip is None else "clip"
    return method


def calibrated_classifier(
    method: str, host: Host, tokens: TokenSet, *, calibrate_threshold: bool = False
) -> Classifier:
    """Create a classifier of a name in ``METHODS``.

    If the tokens have support features, the temperature of ``"clip"``, of ``"hybrid"`` and of the cascade's first stage is
    calibrated; confidences of ``"diffusion"`` and ``"cascade"`` are not.

    Args:
        calibrate_threshold: set a threshold for "unknown" too, and log it. Without it, every image gets a label.

    Raises:
        ConfigError: an unknown method, or a threshold that cannot be found.
        HostError: the host does not have the models that the method needs.
    """
    method = resolve_method(method, host)
    if calibrate_threshold and method in ("diffusion", "cascade"):
        raise ConfigError(
            "a threshold is found with image features of the examples, which the diffusion classifier does not use; "
            "set a threshold yourself, or choose another method"
        )
    if method == "diffusion":
        return DiffusionClassifier(host, tokens)
    if calibrate_threshold:
        check_threshold_examples(tokens)
    first = HybridClassifier(host, tokens) if method == "hybrid" else ClipClassifier(host, tokens)
    if tokens.support is not None:
        calibration = calibrate(first, tokens)
        if calibrate_threshold:
            first.threshold = calibration.threshold
            _LOG.info("%s", calibration.describe())
    return CascadeClassifier(first, DiffusionClassifier(host, tokens)) if method == "cascade" else first


def check_threshold_examples(tokens: TokenSet) -> None:
    """Raises: ConfigError: no class has two examples, so that one of them can be left out."""
    if tokens.support is None:
        raise ConfigError(
            "these tokens have no features of their examples to find a threshold with; set a threshold yourself"
        )
    if not (torch.bincount(tokens.support.labels) > 1).any():
        raise ConfigError(
            "each class of these tokens has one example, but a threshold needs a class with two; set a threshold yourself"
        )


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that maximises the likelihood of the labels under softmax(logits / temperature).

    If all N answers are correct, the plain likelihood is maximal at temperature 0, where every confidence is 1. As in
    Platt scaling, the target of the true class is therefore (N + 1) / (N + 2), and the other classes share the rest.

    Args:
        logits: (N, C), N at least 1.
        labels: (N,) int64.

    Returns:
        A number from 1e-3 to 1e3; 1 if the logits are equal, so that no temperature is better than another.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599, section 4.2.
        Platt, "Probabilistic Outputs for Support Vector Machines", 1999, section 2.2.
    """
    count, classes = logits.shape
    rest = 1 / (count + 2)
    target = torch.full((count, classes), rest / max(1, classes - 1), dtype=torch.double)
    target[torch.arange(count), labels] = 1 - rest
    low, high = math.log(1e-3), math.log(1e3)
    for _ in range(3):  # the loss has one minimum: it is convex in 1 / temperature
        grid = torch.linspace(low, high, 41, dtype=torch.double).exp()
        losses = torch.stack([F.cross_entropy(logits.double() / t, target) for t in grid])
        if losses.max() - losses.min() < 1e-12:
            return 1.0
        best = int(losses.argmin())
        low, high = math.log(grid[max(0, best - 1)]), math.log(grid[min(len(grid) - 1, best + 1)])
    return float(grid[best])


def unknown_threshold(confidences: Tensor, accept: float = 0.95) -> float:
    """The largest threshold that a new image reaches with probability ``accept``, given N confidences of similar images.

    A new image has each rank among them with the same probability, so it reaches the confidence that has k others below
    it with probability (N - k) / (N + 1). If N is too small for ``accept``, the threshold is the smallest confidence.

    References:
        Vovk et al., "Algorithmic Learning in a Random World", 2005: split conformal prediction.
    """
    if not 0 < accept <= 1:
        raise ConfigError(f"accept must be above 0 and at most 1, got {accept}")
    # 0.05 * 20 is one image, whatever floating point says
    below = int((1 - accept) * (len(confidences) + 1) + 1e-9) - 1
    return float(confidences.sort().values[max(0, below)])


def answered_share(reached: int, count: int) -> tuple[float, float, float]:
    """The share of new images that reach a threshold which ``reached`` of ``count`` similar images reach.

    Returns:
        Mean and ends of the 95 % interval. The threshold is one of the images' own confidences, so the share has the
        distribution Beta(reached, count - reached + 1) for any distribution of confidences.
    """
    from scipy.special import betaincinv

    low, high = (float(betaincinv(reached, count - reached + 1, chance)) for chance in (0.025, 0.975))
    return reached / (count + 1), low, high


def _left_out_logits(classifier: ClipClassifier, support: Support, rows: Tensor) -> Tensor:
    """(n, C) logits of the examples at these indices, estimated for tokens and class means without the example itself."""
    if isinstance(classifier, HybridClassifier):
        logits, weight = classifier.left_out_logits(rows), float(classifier.weights[0])
    else:
        logits, weight = classifier.logits(support.features[rows]), 1.0
    gain = weight * classifier.logit_scale * left_out_gain(classifier.text, support)
    logits[torch.arange(len(logits)), support.labels[rows]] -= gain[rows]
    return logits
