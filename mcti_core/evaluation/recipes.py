"""The ways of learning tokens that are compared: plain textual inversion, MC-TI, and MC-TI with the released settings."""

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

__all__ = ["RECIPES", "RELEASED", "config_of", "learn"]

RELEASED = "MC-TI as released"
RECIPES: dict[str, dict[str, Any]] = {
    "TI": {"gamma": 0.0, "gamma_end": None, "warm_start": 0},
    "MC-TI": {},
    RELEASED: {
        # one class per run, four accumulated images per step, and the learning rate 5e-4 times four
        "steps": 3100, "batch": 4, "lr": 2e-3, "lr_schedule": "constant", "lr_warmup": 0, "weight_decay": 1e-2,
        "gamma": 1.0, "gamma_end": None, "reconstruction": 1.0, "warm_start": 0, "keep_norm": False, "probe_every": 0,
        "direction": "text_to_image", "pooling": "token", "logit_scale": 10.0,
    },
}  # fmt: skip
"""Name -> changes to the base settings."""


def config_of(recipe: str, base: TrainConfig, seed: int, **changes: Any) -> TrainConfig:
    """The settings of one training: ``base`` with the recipe's changes, then ``changes``."""
    return replace(base, **{"seed": seed, **RECIPES[recipe], **changes})


def learn(
    host: Host, examples: FeatureCache, recipe: str, config: TrainConfig, *,
    vectors: int = 1, init: str | None = None, on_step: Callable[[StepInfo], object] | None = None,
) -> TokenSet:  # fmt: skip
    """Tokens for the classes of ``examples``, learned with the settings of ``config_of``."""
    first = new_tokens(host, examples.classes, vectors=vectors, init=init, seed=config.seed)
    if recipe == RELEASED:
        return train_per_class(host, examples, first, config, on_step=on_step)[-1].tokens
    return train(host, examples, first, config, on_step=on_step).tokens
