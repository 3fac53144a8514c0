"""Train in whatever memory there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..data.feature_cache import FeatureCache
from ..distributed import SINGLE_PROCESS, DistributedContext
from ..errors import HostError
from ..hosts.base import Host
from ..hosts.out_of_memory import empty_caches, is_out_of_memory
from ..tokens.token_set import TokenSet
from .config import TrainConfig
from .loop import StepInfo, TrainResult, train
from .state import TrainState

__all__ = ["train_with_oom_retry"]


def train_with_oom_retry(
    host: Host,
    cache: FeatureCache,
    tokens: TokenSet,
    config: TrainConfig = TrainConfig(),
    *,
    on_step: Callable[[StepInfo], object] | None = None,
    classes: Sequence[int] | None = None,
    resume: TrainState | None = None,
    processes: DistributedContext = SINGLE_PROCESS,
) -> TrainResult:
    """``training.loop.train``; where memory runs out, with ever smaller parts at once, from the last whole step on.

    Micro-batches are halved first, since they cost least time; where one image is too much, gradient checkpointing is
    turned on. Both change what fits, not what is learned, but for the order in which sums are rounded.

    Raises:
        HostError: a single image does not fit into memory; or as many as were asked for do not, in one of several
            processes, which could not tell the others in the middle of a step.
    """
    size = config.micro_batch or config.batch
    checkpointing = config.gradient_checkpointing
    last: list[StepInfo] = []

    def watched(info: StepInfo) -> None:
        last[:] = [info]
        if on_step is not None:
            on_step(info)

    while True:
        parts = replace(config, micro_batch=size, gradient_checkpointing=checkpointing)
        try:
            return train(
                host, cache, tokens, parts, on_step=watched, classes=classes, resume=resume, processes=processes
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if processes.count > 1:
                raise HostError(_advice(min(size, -(-config.batch // processes.count)), checkpointing)) from error
            if size == 1 and checkpointing:
                raise HostError(
                    "a single image or prompt does not fit into memory; choose a smaller image size, or free memory that other programs use"
                ) from error
        # outside of the handler, which holds on to everything that the failed step had
        size, checkpointing = (1, True) if size == 1 else (size // 2, checkpointing)
        resume = last[0].state() if last else resume
        empty_caches()


def _advice(at_once: int, checkpointing: bool) -> str:
    if at_once > 1:
        return f"{at_once} images at once in each process do not fit into memory; choose --micro-batch {at_once // 2}"
    remedy = "a smaller image size" if checkpointing else "--gradient-checkpointing"
    return f"a single image at once in each process does not fit into memory; choose {remedy}"
