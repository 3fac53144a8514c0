"""Schedules of the learning rate and of gamma. Steps start at 0 and include ``classification_only_steps``."""

from __future__ import annotations

import math

from .config import TrainConfig

__all__ = ["gamma_at", "learning_rate"]


def learning_rate(config: TrainConfig, step: int) -> float:
    """A linear warm-up to ``lr``, times the constant or cosine schedule."""
    warmup = min(1.0, (step + 1) / (config.lr_warmup_steps + 1))
    total = config.classification_only_steps + config.steps
    decay = 0.5 * (1 + math.cos(math.pi * step / total)) if config.lr_schedule == "cosine" else 1.0
    return config.lr * warmup * decay


def gamma_at(config: TrainConfig, step: int) -> float:
    """gamma if it is not adaptive: constant, or gamma * (gamma_end / gamma) ** (t / T), exponential from gamma to gamma_end.

    >>> gamma_at(TrainConfig(steps=1000, gamma=1.0, gamma_end=1e-4), 500)
    0.01
    """
    gamma = float(config.gamma)
    if config.gamma_end is None or gamma == 0:
        return gamma
    fraction = max(0, step - config.classification_only_steps) / config.steps
    return float(gamma * (config.gamma_end / gamma) ** fraction)
