"""The released procedure's way: every class in a training of its own."""

from __future__ import annotations

from collections.abc import Callable

from ..data.feature_cache import FeatureCache
from ..hosts.base import Host
from ..tokens.token_set import TokenSet
from .config import TrainConfig
from .loop import StepInfo, TrainResult
from .oom import train_with_oom_retry

__all__ = ["train_per_class"]


def train_per_class(
    host: Host,
    cache: FeatureCache,
    tokens: TokenSet,
    config: TrainConfig = TrainConfig(),
    *,
    on_step: Callable[[StepInfo], object] | None = None,
) -> list[TrainResult]:
    """Train every class in a run of its own with ``config.steps`` steps each, as the released procedure does.

    With one text a step only ``direction="text_to_image"`` is defined.

    Returns:
        One result a class; the last one's tokens hold all of them.
    """
    results: list[TrainResult] = []
    for index in range(len(tokens)):
        results.append(train_with_oom_retry(host, cache, tokens, config, on_step=on_step, classes=[index]))
        tokens = results[-1].tokens
        if results[-1].stopped == "stopped":
            break
    return results
