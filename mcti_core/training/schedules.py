"""Schedules of the learning rate and of gamma."""

from __future__ import annotations

import math

from ..losses import gamma_at
from .config import TrainConfig

__all__ = ["gamma_of_step", "learning_rate"]


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of a step; steps start at 0 and include ``classification_only_steps``."""
    rise = min(1.0, (step + 1) / (config.lr_warmup_steps + 1))
    total = config.classification_only_steps + config.steps
    fall = 0.5 * (1 + math.cos(math.pi * step / total)) if config.lr_schedule == "cosine" else 1.0
    return config.lr * rise * fall


def gamma_of_step(config: TrainConfig, step: int) -> float:
    """Gamma of a step, if gamma is not adaptive; steps start at 0 and include ``classification_only_steps``."""
    return gamma_at(
        max(0, step - config.classification_only_steps), config.steps, float(config.gamma), config.gamma_end
    )
