"""The benchmark's unit of work: what is measured of one data set at one number of shots, one seed and one way of learning."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from torch import Tensor

from ..classifiers.clip import ClipClassifier
from ..classifiers.diffusion import DiffusionClassifier
from ..classifiers.hybrid import HybridClassifier
from ..training.loop import StepInfo
from .baselines import BASELINES
from .drawings import drawing_measures, image_measures
from .metrics import accuracy
from .recipes import RECIPES, RELEASED, learn
from .tasks import Task
from .zero_shot import name_text_features

__all__ = ["DIFFUSION", "METHODS", "REAL", "RUNS", "ZERO_SHOT", "Cell", "all_cells", "measure"]

RUNS = ("reference", "baselines", *RECIPES)
"""What can be measured. In the first one neither shots nor seeds matter: CLIP with names, and real images in place of drawings."""
ZERO_SHOT, REAL, DIFFUSION = "CLIP zero-shot (knows the names)", "real test images", ", diffusion classifier"
METHODS = (*BASELINES, "TI", "MC-TI", "MC-TI hybrid", RELEASED, f"TI{DIFFUSION}", f"MC-TI{DIFFUSION}", ZERO_SHOT)
"""In the order of the tables."""


@dataclass(frozen=True)
class Cell:
    """What is kept as a whole: an interrupted one is measured again."""

    data: str
    shots: int
    seed: int
    run: str


def all_cells(tasks: Iterable[Task], shots: Sequence[int], seeds: Sequence[int], runs: Sequence[str]) -> list[Cell]:
    """In the order in which they are measured. A data set whose smallest class has fewer examples than ``shots`` leaves these out."""
    tasks = list(tasks)
    cells = [Cell(task.name, 0, 0, RUNS[0]) for task in tasks if RUNS[0] in runs]
    for seed, task, count, run in product(seeds, tasks, shots, runs):
        if run != RUNS[0] and count <= task.facts["fewest"]:
            cells.append(Cell(task.name, count, seed, run))
    return cells


def measure(task: Task, cell: Cell, on_step: Callable[[StepInfo], object] | None = None) -> dict[str, Any]:
    """Measure one cell: its fields, ``seconds``, and ``figures``: method -> measure -> value.

    Measures are ``accuracy`` (on all test images, or for the diffusion classifier on its sample) and those of ``image_measures``.
    """
    started, queries, answers = time.monotonic(), task.query_features, dict[str, Tensor]()
    others: dict[str, dict[str, float]] = {}
    if cell.run == "reference":
        answers[ZERO_SHOT] = queries @ name_text_features(task.host, task.names, task.protocol.base.templates).T
        if task.protocol.drawings:
            others[REAL] = image_measures(task, queries, task.queries.labels)
    elif cell.run == "baselines":
        support = task.examples(cell.shots, cell.seed).support()
        assert support is not None
        answers |= {name: answer(support, queries, len(task.names)) for name, answer in BASELINES.items()}
    else:
        protocol, examples = task.protocol, task.examples(cell.shots, cell.seed)
        config = protocol.config(cell.run, cell.seed)
        tokens = learn(
            task.host, examples, cell.run, config, vectors=protocol.vectors, init=protocol.init, on_step=on_step
        )
        answers[cell.run] = ClipClassifier(task.host, tokens).logits(queries)
        if cell.run == "MC-TI":
            answers["MC-TI hybrid"] = HybridClassifier(task.host, tokens).logits(queries)
        if cell.run != RELEASED and protocol.diffusion_queries:
            assert task.sample.latents is not None
            classifier = DiffusionClassifier(task.host, tokens, pairs=protocol.pairs)
            predicted = classifier.score_latents(task.sample.latents[:, 0]).logits.argmax(1)
            others[cell.run + DIFFUSION] = {"accuracy": accuracy(predicted, task.sample.labels)}
        if cell.run != RELEASED and protocol.drawings:
            others[cell.run] = drawing_measures(task, tokens, cell.seed)
    figures = {
        name: {"accuracy": accuracy(answer if answer.ndim == 1 else answer.argmax(1), task.queries.labels)}
        for name, answer in answers.items()
    }
    for name, measures in others.items():
        figures[name] = figures.get(name, {}) | measures
    return {**asdict(cell), "figures": figures, "seconds": round(time.monotonic() - started, 2)}
