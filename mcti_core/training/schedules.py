"""Learning rate and constant or decaying gamma of each step."""

from __future__ import annotations

import math

from ..losses import gamma_at
from .config import TrainConfig

__all__ = ["gamma_of_step", "learning_rate"]


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step, counted from 0 and including the warm start."""
    rise = min(1.0, (step + 1) / (config.lr_warmup + 1))
    total = config.warm_start + config.steps
    fall = 0.5 * (1 + math.cos(math.pi * step / total)) if config.lr_schedule == "cosine" else 1.0
    return config.lr * rise * fall


def gamma_of_step(config: TrainConfig, step: int) -> float:
    """gamma of a step, counted from 0, if it is not adaptive."""
    return gamma_at(max(0, step - config.warm_start), config.steps, float(config.gamma), config.gamma_end)
