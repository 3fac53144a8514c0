"""Measure the accuracy of tokens and baselines over shots, seeds and settings, on the same splits and features."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..classifiers.clip import ClipClassifier
from ..classifiers.hybrid import HybridClassifier
from ..data.dataset import few_shot_split
from ..data.feature_cache import FeatureCache
from ..data.near_duplicates import across_split
from ..distributed import SINGLE_PROCESS, DistributedContext
from ..errors import ConfigError, ExamplesError
from ..hosts.base import Host
from ..templates import PLAIN_TEMPLATES
from ..tokens.token_set import Support, TokenSet
from ..training.initial import new_tokens
from ..training.loop import TrainConfig
from ..training.oom import train_with_oom_retry
from ..training.per_class import train_per_class
from .baselines import class_mean, k_nearest, logistic_probe
from .metrics import accuracy

__all__ = ["ABLATIONS", "Row", "Variant", "check_shots", "evaluate", "markdown_table", "usual_shots"]


@dataclass(frozen=True)
class Variant:
    """One way to train and to classify with tokens."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes to the base configuration."""
    one_by_one: bool = False
    read_templates: tuple[str, ...] | None = None
    """Templates averaged in classifying; by default those of the training."""
    hybrid: bool = False
    """Whether to also classify with token logits plus class means."""


DEFAULT_VARIANTS = (Variant("TI", {"gamma": 0.0, "warm_start": 0}), Variant("MC-TI", hybrid=True))

ABLATIONS = (
    *DEFAULT_VARIANTS,
    Variant("MC-TI, gamma 0.02", {"gamma": 0.02}),
    Variant("MC-TI, gamma 0.1", {"gamma": 0.1}),
    Variant("MC-TI, gamma 1", {"gamma": 1.0}),
    Variant("MC-TI, gamma 1 decayed to 1e-4", {"gamma": 1.0, "gamma_end": 1e-4}),
    Variant("MC-TI, no reconstruction", {"reconstruction": 0.0, "gamma": 1.0}),
    Variant("MC-TI, text to image", {"direction": "text_to_image"}),
    Variant("MC-TI, symmetric", {"direction": "symmetric"}),
    Variant("MC-TI, pooled at the token", {"pooling": "token"}),
    Variant("MC-TI, read in one template", read_templates=PLAIN_TEMPLATES),
    Variant("MC-TI, one class at a time", {"direction": "text_to_image"}, one_by_one=True),
    Variant("MC-TI, warm start", {"warm_start": 50}),
)
"""Variants compared in docs/results.md."""


@dataclass(frozen=True)
class Row:
    """One measurement."""

    method: str
    shots: int
    seed: int
    accuracy: float
    queries: int
    seconds: float
    """Duration of the training; for baselines, of the prediction."""
    copies: int = 0
    """Number of queries that are the same image as one of the support, or nearly so: they make accuracy look too good."""


def evaluate(
    host: Host,
    cache: FeatureCache,
    shots: Sequence[int],
    seeds: Sequence[int],
    base: TrainConfig,
    variants: Sequence[Variant] = DEFAULT_VARIANTS,
    *,
    vectors: int = 1,
    init: str | None = None,
    on_row: Callable[[Row], object] | None = None,
    processes: DistributedContext = SINGLE_PROCESS,
) -> list[Row]:
    """Train and test every variant on every split; baselines use the same support and query features.

    Args:
        host: with a CLIP space.
        cache: all examples with their features; split for every (shots, seed).
        shots, seeds: parameters of the splits. The seed also seeds the training.
        base: the configuration that variants change.
        variants: the variants to compare.
        vectors, init: for new tokens, see ``new_tokens``.
        on_row: called with each measurement when it is finished.
        processes: share the splits. In each, ``on_row`` gets its own measurements, and the result contains all.

    Raises:
        ConfigError: the cache has no image features.
        ExamplesError: a class has too few images for the most shots; raised before the first training.
    """
    if cache.features is None:
        raise ConfigError("to evaluate, the examples need image features; give a CLIP space")
    check_shots(cache.labels, cache.classes, shots)
    splits = [(count, seed) for count in shots for seed in seeds]
    measured: dict[int, list[Row]] = {}
    for number in range(processes.index, len(splits), processes.count):
        count, seed = splits[number]
        few, others = few_shot_split(cache.labels, cache.classes, count, seed)
        copies = 0 if cache.alike is None else len(across_split(cache.alike, few, others))
        measured[number] = []
        for row in _measured(host, cache.pick(few), cache.pick(others), count, seed, base, variants, vectors, init):
            row = replace(row, copies=copies)
            measured[number].append(row)
            if on_row is not None:
                on_row(row)
    gathered = processes.gather([(number, as_json(rows)) for number, rows in measured.items()])
    ordered = sorted((number, rows) for part in gathered for number, rows in part)
    return [Row(**row) for _, rows in ordered for row in rows]


def usual_shots(labels: Tensor, classes: Sequence[str]) -> list[int]:
    """Those of 1, 2, 4 and 8 shots that leave a test image for every class.

    Raises:
        ExamplesError: a class has only one image.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    if (least := int(counts.min())) < 2:
        raise ExamplesError(
            f"class {classes[int(counts.argmin())]!r} has {least} image; to evaluate, every class needs at least two, one to learn from "
            "and one to test on"
        )
    return [count for count in (1, 2, 4, 8) if count < least]


def check_shots(labels: Tensor, classes: Sequence[str], shots: Sequence[int]) -> None:
    """Raise an ``ExamplesError`` if a class has too few images for the most shots and one test image."""
    for count in shots:
        few_shot_split(labels, classes, count, seed=0)


def _measured(
    host: Host, support: FeatureCache, query: FeatureCache, shots: int, seed: int, base: TrainConfig,
    variants: Sequence[Variant], vectors: int, init: str | None,
) -> Iterable[Row]:  # fmt: skip
    features, labels = _plain(query), query.labels
    few, classes = Support(_plain(support), support.labels), len(support.classes)

    def row(method: str, predicted: Tensor, seconds: float) -> Row:
        return Row(method, shots, seed, accuracy(predicted, labels), len(labels), seconds)

    for name, baseline in (
        ("class mean", class_mean),
        ("3 nearest neighbours", k_nearest),
        ("logistic probe", logistic_probe),
    ):
        started = time.monotonic()
        predicted = baseline(few, features, classes)
        yield row(name, predicted, time.monotonic() - started)
    trained: dict[tuple[TrainConfig, bool], tuple[TokenSet, float]] = {}  # variants may differ only in classifying
    for variant in variants:
        config = replace(base, seed=seed, **variant.settings)
        key = (config, variant.one_by_one)
        if key not in trained:
            started = time.monotonic()
            first = new_tokens(host, support.classes, vectors=vectors, init=init, seed=seed)
            trained[key] = _trained(host, support, first, config, variant.one_by_one), time.monotonic() - started
        tokens, seconds = trained[key]
        classifier = ClipClassifier(host, tokens, templates=variant.read_templates)
        yield row(variant.name, classifier.logits(features).argmax(1), seconds)
        if variant.hybrid:
            yield row(f"{variant.name} hybrid", HybridClassifier(host, tokens).logits(features).argmax(1), seconds)


def _trained(host: Host, support: FeatureCache, tokens: TokenSet, config: TrainConfig, one_by_one: bool) -> TokenSet:
    if not one_by_one:
        return train_with_oom_retry(host, support, tokens, config).tokens
    # the same number of updates and images per class as in the joint run
    share = replace(config, batch=max(1, config.batch // len(tokens)))
    return train_per_class(host, support, tokens, share)[-1].tokens


def markdown_table(rows: Sequence[Row], chance: float) -> str:
    """Table of methods (rows) and shots (columns): mean accuracy and standard deviation over seeds, in percent."""
    shots = sorted({row.shots for row in rows})
    lines = ["| method | " + " | ".join(f"{count} shot{'s' * (count > 1)}" for count in shots) + " |"]
    lines.append("|---" * (len(shots) + 1) + "|")
    lines.append("| chance | " + " | ".join(f"{100 * chance:.1f}" for _ in shots) + " |")
    if any(row.copies for row in rows):
        shares = [[100 * row.copies / row.queries for row in rows if row.shots == count] for count in shots]
        cells = [f"{statistics.mean(values):.1f}" for values in shares]
        lines.append("| (test images that are copies of examples) | " + " | ".join(cells) + " |")
    for method in dict.fromkeys(row.method for row in rows):
        cells = []
        for count in shots:
            values = [100 * row.accuracy for row in rows if row.method == method and row.shots == count]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f}" if values else "")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """All rows as plain values."""
    return [asdict(row) for row in rows]


def _plain(cache: FeatureCache) -> Tensor:
    assert cache.features is not None
    return cache.features[:, 0]
