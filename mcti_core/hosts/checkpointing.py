"""Gradient checkpointing of a model's blocks, for the duration of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .patching import patched

__all__ = ["blocks_of", "checkpointed"]


@contextmanager
def checkpointed(
    blocks: Iterable[nn.Module], within: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Iterator[None]:
    """Context in which the blocks save only their inputs, and are recomputed in the backward pass. The model is restored afterwards.

    Args:
        blocks: to recompute.
        within: context in which they compute, also in the backward pass, which may run in another thread.

    References:
        Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv 1604.06174.
    """
    with ExitStack() as patches:
        for block in blocks:
            patches.enter_context(patched(vars(block), "forward", _recomputed(block.forward, within)))
        yield


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost elements of all lists of modules, wherever they are in a model: its layers."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else blocks_of(child)


def _recomputed(forward: Callable[..., Any], within: Callable[[], AbstractContextManager[Any]]) -> Callable[..., Any]:
    def computed(*arguments: Any, **options: Any) -> Any:
        with within():
            return forward(*arguments, **options)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **options)
        # ComfyUI passes one dict from block to block and writes into it; the recomputation needs its original content
        arguments, options = (
            tuple(map(_shallow_copy, arguments)),
            {name: _shallow_copy(value) for name, value in options.items()},
        )
        return checkpoint(computed, *arguments, use_reentrant=False, preserve_rng_state=False, **options)

    return wrapped


def _shallow_copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
