"""Train every class on its own, as the released code does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ..data.feature_cache import FeatureCache
from ..errors import ConfigError
from ..hosts.base import Host
from ..tokens.token_set import TokenSet
from .config import TrainConfig
from .loop import StepInfo, TrainResult, train

__all__ = ["train_per_class"]


def train_per_class(
    host: Host, cache: FeatureCache, tokens: TokenSet, config: TrainConfig = TrainConfig(), *, side_by_side: int = 1,
    on_step: Callable[[StepInfo], object] | None = None,
) -> list[TrainResult]:  # fmt: skip
    """Train every class as if it were alone, for ``config.steps`` steps of ``config.batch_size`` images of its own.

    With ``direction="text_to_image"``, the only direction that a single class has, the loss of a class depends on no other
    class's vectors. AdamW's step does not depend on the scale of a gradient, so the mean over several classes' losses moves
    each as its own loss does. Hence groups of classes may share their steps, which a GPU computes faster.

    Returns:
        One result per group of ``side_by_side`` classes (1 as in the released code); the last one's tokens have all classes.

    Raises:
        ConfigError: gamma is not 0 and the direction is another.
    """
    if config.gamma and config.direction != "text_to_image":
        raise ConfigError("training each class on its own requires direction 'text_to_image', or gamma 0")
    results: list[TrainResult] = []
    for group in torch.arange(len(tokens)).split(side_by_side):
        max_classes = max(len(group), config.max_classes_per_step)
        shared = replace(config, batch_size=len(group) * config.batch_size, max_classes_per_step=max_classes)
        results.append(train(host, cache, tokens, shared, on_step=on_step, classes=group.tolist()))
        tokens = results[-1].tokens
        if results[-1].stop_reason == "interrupted":
            break
    return results
