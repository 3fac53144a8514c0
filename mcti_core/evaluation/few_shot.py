"""Accuracy of tokens and baselines over shots and seeds, with the same splits and features for all methods."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor

from ..classifiers.clip import ClipClassifier
from ..classifiers.hybrid import HybridClassifier
from ..data.dataset import few_shot_split
from ..data.feature_cache import FeatureCache
from ..data.near_duplicates import across_split
from ..distributed import SINGLE_PROCESS, DistributedContext
from ..errors import ConfigError, counted
from ..hosts.base import Host
from ..training.config import TrainConfig
from .baselines import BASELINES
from .metrics import accuracy, mean_and_deviation
from .recipes import config_of, learn
from .splits import Split

__all__ = ["Row", "evaluate", "markdown_table"]


@dataclass(frozen=True)
class Row:
    """Accuracy of one method on one split."""

    method: str
    shots: int
    seed: int
    accuracy: float
    queries: int
    seconds: float
    """Duration of the training; for baselines, of fitting and prediction."""
    near_duplicates: int = 0
    """Queries that are near-duplicates of a support image, and inflate the accuracy."""


def evaluate(
    host: Host, cache: FeatureCache, shots: Sequence[int], seeds: Sequence[int], base: TrainConfig,
    recipes: Sequence[str] = ("TI", "MC-TI"), *, gammas: Sequence[float | str] = (), num_vectors: int = 1,
    initializer_token: str | None = None, split: Split | None = None, on_row: Callable[[Row], object] | None = None,
    processes: DistributedContext = SINGLE_PROCESS,
) -> list[Row]:  # fmt: skip
    """Train and test TI, MC-TI and baselines on every split.

    Args:
        host: a host with a CLIP space.
        cache: all examples with image features.
        shots, seeds: parameters of the splits, one split per pair. The seed also seeds the training.
        base: training settings.
        recipes: names in ``recipes.RECIPES``; MC-TI is also tested as a hybrid classifier.
        gammas: values of gamma for MC-TI; 0 is TI, and skipped. By default that of ``base``.
        num_vectors, initializer_token: arguments of ``new_tokens``.
        split: train/test split (see ``evaluation.splits``), by default ``few_shot_split``.
        on_row: called with each new row.
        processes: processes that share the splits. ``on_row`` gets the rows of its process, and the result has all rows.

    Raises:
        ConfigError: the cache has no image features.
        ExamplesError: a class has too few images for one of the shots; raised before the first training.
    """
    if cache.features is None:
        raise ConfigError("to evaluate, the examples need image features; give a CLIP space")
    split = split or partial(few_shot_split, cache.labels, cache.classes)
    for count in shots:
        split(count, seeds[0])
    methods: list[tuple[str, str, dict[str, Any]]] = []
    for recipe in recipes:
        if recipe == "MC-TI" and gammas:
            methods += [(f"MC-TI, gamma {gamma}", recipe, {"gamma": gamma}) for gamma in gammas if gamma]
        else:
            methods.append((recipe, recipe, {}))
    measured: list[tuple[int, list[dict[str, Any]]]] = []
    for number, (count, seed) in list(enumerate(product(shots, seeds)))[processes.index :: processes.count]:
        few, others = split(count, seed)
        near_duplicates = 0 if cache.alike is None else len(across_split(cache.alike, few, others))
        support, query, rows = cache.pick(few), cache.pick(others), list[Row]()
        predictions = _predictions(host, support, query, seed, base, methods, num_vectors, initializer_token)
        for method, predicted, seconds in predictions:
            share = accuracy(predicted, query.labels)
            rows.append(Row(method, count, seed, share, len(query), seconds, near_duplicates))
            if on_row is not None:
                on_row(rows[-1])
        measured.append((number, [asdict(row) for row in rows]))
    by_split = sorted(each for part in processes.gather(measured) for each in part)
    return [Row(**row) for _, rows in by_split for row in rows]


def _predictions(
    host: Host, support: FeatureCache, query: FeatureCache, seed: int, base: TrainConfig,
    methods: Sequence[tuple[str, str, dict[str, Any]]], num_vectors: int, initializer_token: str | None,
) -> Iterable[tuple[str, Tensor, float]]:  # fmt: skip
    """(method, (Q,) int64 predicted classes, seconds) of every baseline and of ``methods``, each (method, recipe, overrides)."""
    examples = support.support()
    assert examples is not None
    assert query.features is not None
    features = query.features[:, 0]
    for method, baseline in BASELINES.items():
        started = time.monotonic()
        predicted = baseline(examples, features, len(support.classes))
        yield method, predicted, time.monotonic() - started
    for method, recipe, changes in methods:
        started = time.monotonic()
        config = config_of(recipe, base, seed, **changes)
        tokens = learn(host, support, recipe, config, num_vectors=num_vectors, initializer_token=initializer_token)
        seconds = time.monotonic() - started
        yield method, ClipClassifier(host, tokens).logits(features).argmax(1), seconds
        if recipe == "MC-TI":
            yield f"{method} hybrid", HybridClassifier(host, tokens).logits(features).argmax(1), seconds


def markdown_table(rows: Sequence[Row], chance: float) -> str:
    """Markdown table of methods (rows) and shots (columns): mean and, of several seeds, standard deviation, in percent."""
    shots = sorted({row.shots for row in rows})
    lines = ["| method | " + " | ".join(counted(count, "shot") for count in shots) + " |"]
    lines.append("|---" * (len(shots) + 1) + "|")
    lines.append("| chance | " + " | ".join(f"{100 * chance:.1f}" for _ in shots) + " |")
    if any(row.near_duplicates for row in rows):
        shares = [[100 * row.near_duplicates / row.queries for row in rows if row.shots == count] for count in shots]
        cells = [f"{statistics.mean(values):.1f}" for values in shares]
        lines.append("| (test images that are copies of examples) | " + " | ".join(cells) + " |")
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        cells = [mean_and_deviation([100 * row.accuracy for row in own if row.shots == count]) for count in shots]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
