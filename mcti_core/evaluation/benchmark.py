"""Measure the accuracy of tokens and baselines over shots and seeds, on the same splits and features."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from ..classifiers.clip import ClipClassifier
from ..classifiers.hybrid import HybridClassifier
from ..data.dataset import few_shot_split
from ..data.feature_cache import FeatureCache
from ..data.near_duplicates import across_split
from ..distributed import SINGLE_PROCESS, DistributedContext
from ..errors import ConfigError
from ..hosts.base import Host
from ..tokens.token_set import Support
from ..training.config import TrainConfig
from .baselines import BASELINES
from .metrics import accuracy
from .recipes import config_of, learn
from .splits import Split

__all__ = ["Row", "evaluate", "markdown_table"]


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
    recipes: Sequence[str] = ("TI", "MC-TI"),
    *,
    gammas: Sequence[float | str] = (),
    vectors: int = 1,
    init: str | None = None,
    split: Split | None = None,
    on_row: Callable[[Row], object] | None = None,
    processes: DistributedContext = SINGLE_PROCESS,
) -> list[Row]:
    """Train and test on every split; baselines use the same support and query features.

    Args:
        host: with a CLIP space.
        cache: all examples with their features; split for every (shots, seed).
        shots, seeds: parameters of the splits. The seed also seeds the training.
        base: the settings of the trainings.
        recipes: names in ``recipes.RECIPES``; MC-TI is also tested together with its examples (hybrid).
        gammas: if given, MC-TI is trained with each of them; 0 is TI.
        vectors, init: for new tokens, see ``new_tokens``.
        split: what to learn from and to test on, by default ``few_shot_split``; see ``evaluation.splits``.
        on_row: called with each measurement when it is finished.
        processes: share the splits. In each, ``on_row`` gets its own measurements, and the result contains all.

    Raises:
        ConfigError: the cache has no image features.
        ExamplesError: a class has too few images for one of the shots; raised before the first training.
    """
    if cache.features is None:
        raise ConfigError("to evaluate, the examples need image features; give a CLIP space")
    split = split or partial(few_shot_split, cache.labels, cache.classes)
    for count in shots:
        split(count, seeds[0])
    splits = [(count, seed) for count in shots for seed in seeds]
    runs = _runs(recipes, gammas)
    measured: dict[int, list[Row]] = {}
    for number in range(processes.index, len(splits), processes.count):
        count, seed = splits[number]
        few, others = split(count, seed)
        copies = 0 if cache.alike is None else len(across_split(cache.alike, few, others))
        measured[number] = []
        for row in _measured(host, cache.pick(few), cache.pick(others), count, seed, base, runs, vectors, init):
            row = replace(row, copies=copies)
            measured[number].append(row)
            if on_row is not None:
                on_row(row)
    gathered = processes.gather([(number, as_json(rows)) for number, rows in measured.items()])
    ordered = sorted((number, rows) for part in gathered for number, rows in part)
    return [Row(**row) for _, rows in ordered for row in rows]


def _runs(recipes: Sequence[str], gammas: Sequence[float | str]) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, recipe, changed settings) of each training on a split."""
    runs: list[tuple[str, str, dict[str, Any]]] = []
    for recipe in recipes:
        if recipe == "MC-TI" and gammas:
            runs += [(f"MC-TI, gamma {gamma}", recipe, {"gamma": gamma}) for gamma in gammas if gamma]
        else:
            runs.append((recipe, recipe, {}))
    return runs


def _measured(
    host: Host, support: FeatureCache, query: FeatureCache, shots: int, seed: int, base: TrainConfig,
    runs: Sequence[tuple[str, str, dict[str, Any]]], vectors: int, init: str | None,
) -> Iterable[Row]:  # fmt: skip
    features, labels = _plain(query), query.labels
    few, classes = Support(_plain(support), support.labels), len(support.classes)

    def row(method: str, predicted: Tensor, seconds: float) -> Row:
        return Row(method, shots, seed, accuracy(predicted, labels), len(labels), seconds)

    for name, baseline in BASELINES.items():
        started = time.monotonic()
        predicted = baseline(few, features, classes)
        yield row(name, predicted, time.monotonic() - started)
    for name, recipe, changes in runs:
        started = time.monotonic()
        tokens = learn(host, support, recipe, config_of(recipe, base, seed, **changes), vectors=vectors, init=init)
        seconds = time.monotonic() - started
        yield row(name, ClipClassifier(host, tokens).logits(features).argmax(1), seconds)
        if recipe == "MC-TI":
            yield row(f"{name} hybrid", HybridClassifier(host, tokens).logits(features).argmax(1), seconds)


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
