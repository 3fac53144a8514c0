"""Accuracy against wall time: the usual recipe, one class after the other, and this library, all classes at once.

Usage: python -m benchmarks.time_to_accuracy [--quick] [--json FILE] [--plot FILE.png] [--seeds 0 1 2]

The pocket checkpoint, ten handwritten digits, five shots; accuracy of the CLIP classifier on all other 1,747 images. The clock
starts when the models are loaded: whatever is computed of the images counts. Both sides start from the same word and read with
the pooling that they were trained with. The recipe's learning rate is constant, so that one run of it gives its whole curve; this
library's follows a cosine, so that each number of steps is a run of its own.

The recipe runs twice: with the released learning rate and classification term, and with those that were chosen for the pocket
checkpoint. The better one is what counts.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from mcti_core.classifiers import ClipClassifier
from mcti_core.config import TrainConfig
from mcti_core.examples import FewShotDataset
from mcti_core.experiments import new_tokens
from mcti_core.features import FeatureCache
from mcti_core.hosts.base import Host
from mcti_core.hosts.loading import quiet_libraries
from mcti_core.pocket import POCKET_CONFIG, POCKET_FOLDER, load_pocket
from mcti_core.pocket.digits import digit_dataset
from mcti_core.tokens import TokenSet
from mcti_core.training import train

from .lines import Panel, draw_panels
from .plain_recipe import PlainRecipe, PlainSettings
from .report import machine, show, write_json

SHOTS = 5
RECIPES = {
    "usual recipe, released settings": PlainSettings(mirror=False, word="glyph"),
    "usual recipe, pocket's settings": PlainSettings(
        mirror=False,
        word="glyph",
        lr=POCKET_CONFIG.lr,
        gamma=POCKET_CONFIG.gamma,
        logit_scale=POCKET_CONFIG.logit_scale,
    ),
}
OURS = "all classes at once"


@dataclass(frozen=True)
class Point:
    """One measurement."""

    method: str
    seed: int
    steps: int
    """Optimizer steps: a class with the recipe, for all classes with ours."""
    seconds: float
    accuracy: float
    """In percent."""


class Exam:
    """One seed's examples, and held-out images that mark tokens; marking is not on the clock."""

    def __init__(self, host: Host, dataset: FewShotDataset, seed: int, queries: int | None):
        self.host, self.seed = host, seed
        self.support, others = dataset.split(SHOTS, seed)
        if queries is not None:
            chosen = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))[:queries]
            others = others.pick(chosen)
        self.cache = FeatureCache.build(host, others, mirror=False, latents=False)

    def mark(self, tokens: TokenSet) -> float:
        predicted = ClipClassifier(self.host, tokens).logits(self.cache.features[:, 0]).argmax(1)
        return 100 * (predicted == self.cache.labels).float().mean().item()


def measure_plain(
    method: str, recipe: PlainRecipe, exam: Exam, settings: PlainSettings, looks: Sequence[int]
) -> list[Point]:
    """The recipe's curve: what all classes' tokens are worth after so many steps each, and how long those took."""
    settings = replace(settings, steps=max(looks), seed=100 * exam.seed)
    clock = perf_counter()
    examples = recipe.examples(exam.support, settings.mirror)
    spent = dict.fromkeys(looks, perf_counter() - clock)
    vectors: dict[int, list[torch.Tensor]] = {look: [] for look in looks}
    for label in range(len(exam.support.classes)):
        clock = perf_counter()

        def look(step: int, vector: torch.Tensor, clock: float = clock) -> None:
            if step in spent:
                spent[step] += perf_counter() - clock
                vectors[step].append(vector)

        recipe.train_class(examples, label, settings, look)
    first = new_tokens(exam.host, exam.support.classes)
    tokens = {
        steps: replace(first, vectors={"clip_l": torch.stack(rows)}, templates=settings.templates, pooling="token")
        for steps, rows in vectors.items()
    }
    return [Point(method, exam.seed, steps, spent[steps], exam.mark(tokens[steps])) for steps in looks]


def measure_ours(exam: Exam, config: TrainConfig) -> Point:
    clock = perf_counter()
    cache = FeatureCache.build(exam.host, exam.support, mirror=False)
    tokens = train(exam.host, cache, new_tokens(exam.host, cache.classes), replace(config, seed=exam.seed)).tokens
    spent = perf_counter() - clock
    return Point(OURS, exam.seed, config.steps, spent, exam.mark(tokens))


def measure(
    seeds: Sequence[int], looks: Sequence[int], steps: Sequence[int], queries: int | None, methods: Sequence[str]
) -> list[Point]:
    host, recipe, dataset = load_pocket(), PlainRecipe(POCKET_FOLDER), digit_dataset()
    points: list[Point] = []
    for seed in seeds:
        exam = Exam(host, dataset, seed, queries)
        measure_ours(exam, replace(POCKET_CONFIG, steps=1))  # the first call of anything is slow
        for count in steps:
            points.append(measure_ours(exam, replace(POCKET_CONFIG, steps=count)))
        for method in methods:
            points += measure_plain(method, recipe, exam, RECIPES[method], looks)
    return points


def curves(points: Sequence[Point]) -> list[dict[str, Any]]:
    """One row a method and number of steps: means over seeds, and the accuracy's spread."""
    rows = []
    for method, steps in dict.fromkeys((point.method, point.steps) for point in points):
        found = [point for point in points if (point.method, point.steps) == (method, steps)]
        right = [point.accuracy for point in found]
        rows.append({
            "method": method, "steps": steps, "seconds": statistics.mean(point.seconds for point in found),
            "accuracy": statistics.mean(right), "spread": statistics.stdev(right) if len(right) > 1 else 0.0,
        })  # fmt: skip
    return rows


def verdict(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How long both take to the accuracy of the best recipe's plateau, less one point."""
    plain = [row for row in rows if row["method"] != OURS]
    goal = max(row["accuracy"] for row in plain) - 1

    def first(candidates: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return min((row for row in candidates if row["accuracy"] >= goal), key=lambda row: row["seconds"], default={})

    theirs, ours = first(plain), first([row for row in rows if row["method"] == OURS])
    ratio = ours["seconds"] / theirs["seconds"] if ours else None
    return {"goal": goal, "recipe": theirs, "ours": ours, "share of the time": ratio}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, fewer steps, 300 queries: to see that it runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    told = parser.parse_args(arguments)
    quiet_libraries()
    methods = list(RECIPES)
    if told.quick:
        points = measure(told.seeds[:1], (2, 5, 10), (5, 10, 20), 300, methods[1:])
    else:
        points = measure(told.seeds, (2, 5, 10, 20, 30, 40), (3, 5, 10, 20, 40), None, methods)
    rows = curves(points)
    show("Accuracy in percent against seconds, means over seeds", rows)
    found = verdict(rows)
    print(
        f"\nTo {found['goal']:.1f} %: {found['recipe']}\n{found['ours']}\nshare of the time: {found['share of the time']}"
    )
    write_json(
        told.json, {"machine": machine("cpu"), "points": [vars(point) for point in points], "curves": rows, **found}
    )
    if told.plot is not None:
        names = dict.fromkeys(row["method"] for row in rows)
        series = {name: [(r["seconds"], r["accuracy"]) for r in rows if r["method"] == name] for name in names}
        draw_panels([Panel("accuracy, %", "seconds of training, mean of the seeds", series, logarithmic=True)]).save(
            told.plot
        )


if __name__ == "__main__":
    main()
