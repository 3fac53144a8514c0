"""Training recipes to compare: plain textual inversion (TI), MC-TI, and MC-TI with the released settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..data.feature_cache import FeatureCache
from ..hosts.base import Host
from ..tokens.token_set import TokenSet
from ..training.config import TrainConfig
from ..training.initial import new_tokens
from ..training.loop import StepInfo, train
from ..training.per_class import train_per_class

__all__ = ["RECIPES", "RELEASED", "SIDE_BY_SIDE", "config_of", "learn"]

RELEASED = "MC-TI as released"
SIDE_BY_SIDE = 16
"""Classes that share the steps of the released recipe, with the same result as one after the other (``train_per_class``)."""
RECIPES: dict[str, dict[str, Any]] = {
    "TI": {"gamma": 0.0, "gamma_end": None, "classification_only_steps": 0},
    "MC-TI": {},
    RELEASED: {
        # one run per class, gradients accumulated over four images, learning rate 4 * 5e-4
        "steps": 3100, "batch_size": 4, "lr": 2e-3, "lr_schedule": "constant", "lr_warmup_steps": 0, "weight_decay": 1e-2,
        "gamma": 1.0, "gamma_end": None, "reconstruction_weight": 1.0, "classification_only_steps": 0, "keep_norm": False, "eval_steps": 0,
        "direction": "text_to_image", "pooling": "token", "logit_scale": 10.0,
    },
}  # fmt: skip
"""Overrides of the base ``TrainConfig``, by recipe."""


def config_of(recipe: str, base: TrainConfig, seed: int, **changes: Any) -> TrainConfig:
    """Training settings: ``base`` with the recipe's overrides, then ``changes``."""
    return replace(base, **{"seed": seed, **RECIPES[recipe], **changes})


def learn(
    host: Host, examples: FeatureCache, recipe: str, config: TrainConfig, *,
    num_vectors: int = 1, initializer_token: str | None = None, on_step: Callable[[StepInfo], object] | None = None,
) -> TokenSet:  # fmt: skip
    """Train new tokens for the classes of ``examples`` with the settings from ``config_of``."""
    first = new_tokens(
        host, examples.classes, num_vectors=num_vectors, initializer_token=initializer_token, seed=config.seed
    )
    if recipe == RELEASED:
        results = train_per_class(host, examples, first, config, side_by_side=SIDE_BY_SIDE, on_step=on_step)
        return results[-1].tokens
    return train(host, examples, first, config, on_step=on_step).tokens
