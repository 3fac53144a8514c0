"""Cost estimate of a benchmark: counts by arithmetic, hours from a few timed calls on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch

from ..data.feature_cache import FeatureCache
from ..sampling import generate
from ..training.initial import new_tokens
from ..training.loop import train
from .cells import Cell
from .recipes import RECIPES, RELEASED, SIDE_BY_SIDE
from .tasks import Task

__all__ = ["Cost", "cost_of", "measured_rates"]

_EVALUATIONS_PER_STEP = 2
"""UNet evaluations per denoising step with classifier-free guidance."""


@dataclass(frozen=True)
class Cost:
    """Upper bound of the cost of one or more cells; the diffusion classifier usually needs less."""

    images: int = 0
    """Images encoded by the VAE or the vision tower."""
    steps: int = 0
    """Training steps."""
    trained: int = 0
    """UNet calls with a backward pass."""
    evaluated: int = 0
    """UNet calls without a backward pass."""
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def calls(self) -> int:
        """UNet calls, the unit of the progress bar; at least 1."""
        return max(1, self.trained + self.evaluated)


def cost_of(cell: Cell, task: Task, rates: Mapping[str, float]) -> Cost:
    """Upper bound for one cell, without the image features that all cells share."""
    protocol, classes = task.protocol, len(task.names)
    images, evaluated = cell.shots * classes, 0
    if cell.run not in RECIPES:
        return Cost(images, seconds=images * rates["image"])
    config = protocol.config(cell.run, cell.seed)
    groups, trained_alone = (ceil(classes / SIDE_BY_SIDE), classes) if cell.run == RELEASED else (1, 1)
    if cell.run != RELEASED:
        sample = max(classes, protocol.diffusion_queries) if protocol.diffusion_queries else 0
        evaluated = classes * (
            sample * protocol.num_trials + protocol.drawings * protocol.drawing_steps * _EVALUATIONS_PER_STEP
        )
    steps = groups * (config.steps + config.classification_only_steps)
    seconds = images * rates["image"] + steps * rates[cell.run] + evaluated * rates["evaluation"]
    return Cost(images, steps, trained_alone * config.steps * config.batch_size, evaluated, seconds)


def measured_rates(task: Task, runs: Sequence[str]) -> dict[str, float]:
    """Seconds per ``image``, per UNet ``evaluation``, and per training step of each recipe in ``runs``, measured on ``task``."""
    host, protocol, started = task.host, task.protocol, time.monotonic()
    one_each = [int((task.pool.labels == label).nonzero()[0]) for label in range(len(task.names))]
    cache = FeatureCache.build(host, task.pool.pick(torch.tensor(one_each)), hflip=False)
    rates = {"image": (time.monotonic() - started) / len(one_each)}
    tokens = new_tokens(
        host, cache.classes, num_vectors=protocol.num_vectors, initializer_token=protocol.initializer_token
    )
    for run in (run for run in runs if run in RECIPES):
        config = replace(protocol.config(run, 0), classification_only_steps=0)
        if run == RELEASED:
            config = replace(config, batch_size=config.batch_size * min(SIDE_BY_SIDE, len(tokens)))
        one, four = (train(host, cache, tokens, replace(config, steps=n)).seconds for n in (1, 4))
        rates[run] = max(0.0, four - one) / 3
    started = time.monotonic()
    generate(host, [0] * 4, tokens, num_inference_steps=3)
    return rates | {"evaluation": (time.monotonic() - started) / (4 * 3 * _EVALUATIONS_PER_STEP)}
