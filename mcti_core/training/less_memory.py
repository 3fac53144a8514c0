"""Continue a training with smaller parts of a batch when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..errors import HostError, counted
from ..hosts.out_of_memory import empty_caches, is_out_of_memory
from .config import TrainConfig
from .state import TrainState

if TYPE_CHECKING:
    from .loop import StepInfo, TrainResult

__all__ = ["with_less_memory"]

_LOG = logging.getLogger(__name__)
_TOO_LARGE = "a single image or prompt does not fit into memory; choose a smaller image size, or free memory that other programs use"


def with_less_memory(
    attempt: Callable[[TrainConfig, Callable[[StepInfo], object], TrainState | None], TrainResult],
    config: TrainConfig, on_step: Callable[[StepInfo], object] | None, resume: TrainState | None, processes: int,
) -> TrainResult:  # fmt: skip
    """Call ``attempt(config, on_step, resume)`` until it fits into memory, each time from the last finished step on.

    Micro-batches are halved first, which costs the least time; if a single image is too large, gradient checkpointing is
    switched on. Both only change the order in which sums are rounded.

    Exceptions of ``on_step`` pass through. One of several processes cannot tell the others in the middle of a step, so it fails.

    Raises:
        HostError: a single image does not fit into memory, or a micro-batch in one of several processes.
    """
    last: StepInfo | None = None
    in_callback = False

    def remember(info: StepInfo) -> None:
        nonlocal last, in_callback
        last, in_callback = info, True
        if on_step is not None:
            on_step(info)
        in_callback = False

    while True:
        try:
            return attempt(config, remember, resume)
        except (RuntimeError, MemoryError) as error:
            if in_callback or not is_out_of_memory(error):
                raise
            size, checkpointing = config.micro_batch_size or config.batch_size, config.gradient_checkpointing
            if processes > 1:
                raise HostError(_advice(min(size, -(-config.batch_size // processes)), checkpointing)) from error
            if size == 1 and checkpointing:
                raise HostError(_TOO_LARGE) from error
        # outside of the handler, whose exception refers to all tensors of the failed step
        smaller = {"gradient_checkpointing": True} if size == 1 else {"micro_batch_size": size // 2}
        config = replace(config, **smaller)
        resume = last.state() if last is not None else resume
        empty_caches()
        _LOG.info("Out of memory; training continues with %s", _described(config))


def _described(config: TrainConfig) -> str:
    checkpointing = " and gradient checkpointing" if config.gradient_checkpointing else ""
    described = f"{counted(config.micro_batch_size, 'image')} at once{checkpointing}"
    if not torch.cuda.is_available():
        return described
    free, in_use = torch.cuda.mem_get_info()[0], torch.cuda.memory_allocated()
    return f"{described} ({in_use / 1e9:.1f} GB in use, {free / 1e9:.1f} GB free)"


def _advice(at_once: int, checkpointing: bool) -> str:
    if at_once > 1:
        return (
            f"{at_once} images at once in each process do not fit into memory; choose --micro-batch-size {at_once // 2}"
        )
    remedy = "a smaller image size" if checkpointing else "--gradient-checkpointing"
    return f"a single image at once in each process does not fit into memory; choose {remedy}"
