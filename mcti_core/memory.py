"""Train in whatever memory there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from .config import TrainConfig
from .errors import HostError
from .features import FeatureCache
from .hosts.base import Host
from .tokens import TokenSet
from .train_state import TrainState
from .training import StepInfo, TrainResult, train

__all__ = ["train_in_memory"]


def train_in_memory(
    host: Host,
    cache: FeatureCache,
    tokens: TokenSet,
    config: TrainConfig = TrainConfig(),
    *,
    on_step: Callable[[StepInfo], object] | None = None,
    classes: Sequence[int] | None = None,
    resume: TrainState | None = None,
) -> TrainResult:
    """``training.train``; where memory runs out, with ever smaller micro-batches, from the last whole step on.

    Micro-batches change what fits, not what is learned, but for the order in which sums are rounded.

    Raises:
        HostError: memory does not do for a single image.
    """
    size = config.micro_batch or config.batch
    last: list[StepInfo] = []

    def watched(info: StepInfo) -> None:
        last[:] = [info]
        if on_step is not None:
            on_step(info)

    while True:
        try:
            parts = replace(config, micro_batch=size)
            return train(host, cache, tokens, parts, on_step=watched, classes=classes, resume=resume)
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise HostError(
                    "memory does not do for one image at a time; choose a smaller image size, or free memory that others hold"
                ) from error
        size = max(1, size // 2)  # outside of the handler, which holds on to everything that the failed step had
        resume = last[0].state() if last else resume
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
