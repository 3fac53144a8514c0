"""Train every class on its own, as the released code does."""

from __future__ import annotations

from collections.abc import Callable

from ..data.feature_cache import FeatureCache
from ..hosts.base import Host
from ..tokens.token_set import TokenSet
from .config import TrainConfig
from .loop import StepInfo, TrainResult, train

__all__ = ["train_per_class"]


def train_per_class(
    host: Host,
    cache: FeatureCache,
    tokens: TokenSet,
    config: TrainConfig = TrainConfig(),
    *,
    on_step: Callable[[StepInfo], object] | None = None,
) -> list[TrainResult]:
    """Train one class after the other, with ``config.steps`` steps each.

    A single text per step only allows ``direction="text_to_image"``.

    Returns:
        One result per class; the last one's tokens contain all classes.
    """
    results: list[TrainResult] = []
    for index in range(len(tokens)):
        results.append(train(host, cache, tokens, config, on_step=on_step, classes=[index]))
        tokens = results[-1].tokens
        if results[-1].stopped == "stopped":
            break
    return results
