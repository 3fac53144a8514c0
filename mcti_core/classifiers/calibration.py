"""Confidences that can be believed, and a threshold for "unknown", from the examples that are kept with the tokens.

A learned token has seen its examples, so its confidence in them says too much about other images; and leaving an example
out would mean training again. But how far a token leans on its examples can be measured. Its unit text feature t has a
part rho = cos(t, m) along the unit mean m of its class's example features, and through that part alone example x
attracts it. Had x been missing, the mean would have been m' of the other examples, and x's cosine with the token about

    cos(x, t) - rho * (cos(x, m) - cos(x, m'))

which is exact for a token that is its class mean. The classification term of training leans on examples in other ways
too, so that a little optimism remains. Class means alone, with examples left out, would have none, but their cosines are
of another size than those of texts with images: a temperature fitted to them is theirs.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, TokenError, listed
from ..hosts.base import Host
from ..tokens.token_set import Support, TokenSet
from .base import Classifier
from .cascade import CascadeClassifier
from .clip import ClipClassifier
from .diffusion import DiffusionClassifier
from .hybrid import HybridClassifier, left_out_gain
from .methods import METHODS

__all__ = [
    "METHODS",
    "Calibration",
    "answered_share",
    "calibrate",
    "calibrated_classifier",
    "check_threshold_examples",
    "fit_temperature",
    "left_out_gain",
    "resolved",
    "unknown_threshold",
]


_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    temperature: float
    threshold: float
    left_out: int
    """Examples that could be judged as if unseen; 0 where every class has only one."""
    reached: int = 0
    """How many of them reach the threshold."""

    def describe(self) -> str:
        """What the threshold is worth, for a person: what was measured, and what follows for new images."""
        if not self.left_out:
            return (
                "no class has two examples, so no threshold could be measured and every image is answered with a class"
            )
        share, low, high = answered_share(self.reached, self.left_out)
        return (
            f"threshold {self.threshold:.3f}: {self.reached} of {self.left_out} examples reach it, each judged as if it were new; of "
            f"new images of these classes about {100 * share:.0f} % will be answered with a class (95 % interval: "
            f"{100 * low:.0f} to {100 * high:.0f} %)"
        )


def calibrate(classifier: ClipClassifier | HybridClassifier, tokens: TokenSet, accept: float = 0.95) -> Calibration:
    """Set a classifier's temperature and threshold from its tokens' examples, each judged as if it had not been seen.

    An example that is its class's only one cannot be left out and is passed over. Where every class has only one, nothing
    can be measured: the logits keep the size they were trained at (temperature 1; for the hybrid, whose logits add
    ``weight`` as much again, 1 + weight), and the threshold stays 0, which always answers.

    Args:
        classifier: of these tokens; its ``temperature`` and ``threshold`` are set.
        tokens: with support features.
        accept: share of new images of these classes that are to be answered with a class rather than ``UNKNOWN``, as far as
            there are examples enough to say; ``Calibration.describe`` tells what they allow to expect.

    Returns:
        What was set.

    Raises:
        TokenError: the tokens carry no support features.
        ConfigError: the classifier is of other classes; ``accept`` is not in (0, 1].
    """
    if tokens.support is None:
        raise TokenError(
            "these tokens carry no features of their examples to calibrate with; train them with a CLIP space"
        )
    if classifier.labels != tokens.labels:
        raise ConfigError(
            f"the classifier's classes ({listed(classifier.labels)}) are not the tokens' ({listed(tokens.labels)})"
        )
    text = classifier.tokens.text if isinstance(classifier, HybridClassifier) else classifier.text
    support = tokens.support.of_width(text.shape[1])
    logits, labels = _left_out_logits(classifier, support), support.labels
    usable = torch.bincount(labels)[labels] > 1
    if usable.any():
        temperature = fit_temperature(logits[usable], labels[usable])
        confidences = (logits[usable] / temperature).softmax(1).amax(1)
        threshold = unknown_threshold(confidences, accept)
        reached = int((confidences >= threshold).sum())
    else:
        temperature = float(classifier.weights.sum()) if isinstance(classifier, HybridClassifier) else 1.0
        threshold, reached = 0.0, 0
    classifier.temperature, classifier.threshold = temperature, threshold
    return Calibration(temperature, threshold, int(usable.sum()), reached)


def resolved(method: str, host: Host) -> str:
    """The method itself, or for ``"auto"`` the one that the host can serve.

    Raises:
        ConfigError: an unknown method.
    """
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if method == "auto":
        return "diffusion" if host.clip is None else "clip"
    return method


def calibrated_classifier(method: str, host: Host, tokens: TokenSet, *, find_threshold: bool = False) -> Classifier:
    """A classifier by name, its confidences calibrated where the tokens carry features of their examples.

    Args:
        method: one of ``METHODS``.
        find_threshold: the classifier must come with a threshold for "unknown".

    Raises:
        ConfigError: an unknown method, or a threshold that cannot be found.
        HostError: the host lacks what the method needs.
    """
    method = resolved(method, host)
    if find_threshold and method in ("diffusion", "cascade"):
        raise ConfigError(
            "a threshold is found with the examples' image features, by which the diffusion classifier does not decide; "
            "give a threshold yourself, or take another method"
        )
    if method == "diffusion":
        return DiffusionClassifier(host, tokens)
    if find_threshold:
        check_threshold_examples(tokens)
    first = HybridClassifier(host, tokens) if method == "hybrid" else ClipClassifier(host, tokens)
    if tokens.support is not None:
        calibration = calibrate(first, tokens)
        if find_threshold:
            _LOG.info("%s", calibration.describe())
    return CascadeClassifier(first, DiffusionClassifier(host, tokens)) if method == "cascade" else first


def check_threshold_examples(tokens: TokenSet) -> None:
    """Raise a ``ConfigError`` unless a threshold can be found: it takes a class with two examples, one of which is left out."""
    if tokens.support is None:
        raise ConfigError(
            "these tokens carry no features of their examples to find a threshold with; give a threshold yourself"
        )
    if not (torch.bincount(tokens.support.labels) > 1).any():
        raise ConfigError(
            "each class of these tokens has one example, and to find a threshold a class needs two; give a threshold yourself"
        )


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature under which the softmax of ``logits / temperature`` gives the labels the greatest likelihood.

    When all N answers are right, the plain likelihood would be greatest at temperature 0, where every confidence is 1.
    As in Platt's scaling, the true class is therefore aimed at with (N + 1) / (N + 2), and the others share the rest.

    Args:
        logits: (N, C).
        labels: (N,) int64.

    Returns:
        Between 1e-3 and 1e3; 1 where logits are all equal and no temperature is better than another.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599, section 4.2.
        Platt, "Probabilistic Outputs for Support Vector Machines", 1999, section 2.2.
    """
    if logits.ndim != 2 or len(logits) != len(labels) or not len(labels):
        raise ConfigError(
            f"a temperature needs (N, C) logits and N labels, got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
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
    """The greatest threshold that a new image reaches with probability ``accept``, judged by those of N like it.

    One more image is as likely to rank anywhere among them as anywhere else, so that it reaches the one with k below it with
    probability (N - k) / (N + 1). Where N is too small for ``accept``, the threshold is the least of them.

    References:
        Vovk et al., "Algorithmic Learning in a Random World", 2005: split conformal prediction.
    """
    if not 0 < accept <= 1:
        raise ConfigError(f"accept must be above 0 and at most 1, got {accept}")
    if not len(confidences):
        raise ConfigError("a threshold needs at least one confidence")
    refused = (
        int((1 - accept) * (len(confidences) + 1) + 1e-9) - 1
    )  # 0.05 * 20 is one image, whatever floating point says
    return float(confidences.sort().values[max(0, refused)])


def answered_share(reached: int, count: int) -> tuple[float, float, float]:
    """Of new images, the share that reaches a threshold which ``reached`` of ``count`` images like them reach.

    Returns:
        Its mean and the ends of its 95 % interval: the threshold is one of the images' own confidences, so that the share
        has the distribution Beta(reached, count - reached + 1), whatever confidences are distributed like.
    """
    from scipy.special import betaincinv

    low, high = (float(betaincinv(reached, count - reached + 1, chance)) for chance in (0.025, 0.975))
    return reached / (count + 1), low, high


def _left_out_logits(classifier: ClipClassifier | HybridClassifier, support: Support) -> Tensor:
    """(N, C) logits of the examples, as if their own tokens and class means had not seen them."""
    if isinstance(classifier, HybridClassifier):
        clip, logits, weight = classifier.tokens, classifier.left_out_logits(), float(classifier.weights[0])
    else:
        clip, logits, weight = classifier, classifier.logits(support.features), 1.0
    logits = logits.clone()
    logits[torch.arange(len(logits)), support.labels] -= weight * clip.logit_scale * left_out_gain(clip.text, support)
    return logits
