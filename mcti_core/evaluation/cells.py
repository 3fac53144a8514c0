"""Cells, the unit of work of ``mcti benchmark``: one data set, number of shots, seed and training recipe."""

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
from .baselines import BASELINES, name_text_features
from .drawings import drawing_measures, image_measures
from .metrics import accuracy
from .recipes import RECIPES, RELEASED, learn
from .tasks import Task

__all__ = ["DIFFUSION", "METHODS", "REAL", "RUNS", "ZERO_SHOT", "Cell", "all_cells", "measure"]

RUNS = ("reference", "baselines", *RECIPES)
"""Runs of a cell. ``reference``, CLIP zero-shot and measures of real images, is independent of shots and seed."""
ZERO_SHOT, REAL, DIFFUSION = "CLIP zero-shot (knows the names)", "real test images", ", diffusion classifier"
METHODS = (*BASELINES, "TI", "MC-TI", "MC-TI hybrid", RELEASED, f"TI{DIFFUSION}", f"MC-TI{DIFFUSION}", ZERO_SHOT)
"""Methods in the order of the table rows."""


@dataclass(frozen=True)
class Cell:
    """Key of a cell. Results are saved per cell; an interrupted cell is measured again."""

    data: str
    shots: int
    seed: int
    run: str


def all_cells(tasks: Iterable[Task], shots: Sequence[int], seeds: Sequence[int], runs: Sequence[str]) -> list[Cell]:
    """All cells in the order of measurement, without those with more shots than the smallest class has examples."""
    tasks = list(tasks)
    cells = [Cell(task.name, 0, 0, RUNS[0]) for task in tasks if RUNS[0] in runs]
    for seed, task, count, run in product(seeds, tasks, shots, runs):
        if run != RUNS[0] and count <= task.facts["fewest"]:
            cells.append(Cell(task.name, count, seed, run))
    return cells


def measure(task: Task, cell: Cell, on_step: Callable[[StepInfo], object] | None = None) -> dict[str, Any]:
    """Measure one cell.

    Returns:
        The cell's fields, ``seconds``, and ``figures``: measures by method. A measure is ``accuracy`` (on all test
        images, or on ``task.sample`` for the diffusion classifier) or one of ``image_measures``.
    """
    started, protocol, queries = time.monotonic(), task.protocol, task.query_features
    answers: dict[str, Tensor] = {}
    figures: dict[str, dict[str, float]] = {}
    if cell.run == "reference":
        answers[ZERO_SHOT] = (queries @ name_text_features(task.host, task.names, protocol.base.templates).T).argmax(1)
        if protocol.drawings:
            figures[REAL] = image_measures(task, queries, task.queries.labels)
    elif cell.run == "baselines":
        support = task.examples(cell.shots, cell.seed).support()
        assert support is not None
        answers |= {name: baseline(support, queries, len(task.names)) for name, baseline in BASELINES.items()}
    else:
        examples, config = task.examples(cell.shots, cell.seed), protocol.config(cell.run, cell.seed)
        tokens = learn(
            task.host, examples, cell.run, config,
            num_vectors=protocol.num_vectors, initializer_token=protocol.initializer_token, on_step=on_step,
        )  # fmt: skip
        answers[cell.run] = ClipClassifier(task.host, tokens).logits(queries).argmax(1)
        if cell.run == "MC-TI":
            answers["MC-TI hybrid"] = HybridClassifier(task.host, tokens).logits(queries).argmax(1)
        if cell.run != RELEASED and protocol.diffusion_queries:
            assert task.sample.latents is not None
            classifier = DiffusionClassifier(task.host, tokens, num_trials=protocol.num_trials)
            scores = classifier.score_latents(task.sample.latents[:, 0])
            figures[cell.run + DIFFUSION] = {"accuracy": accuracy(scores.logits.argmax(1), task.sample.labels)}
        if cell.run != RELEASED and protocol.drawings:
            figures[cell.run] = drawing_measures(task, tokens, cell.seed)
    for name, predicted in answers.items():
        figures[name] = {"accuracy": accuracy(predicted, task.queries.labels)} | figures.get(name, {})
    return {**asdict(cell), "figures": figures, "seconds": round(time.monotonic() - started, 2)}
