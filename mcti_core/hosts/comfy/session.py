"""Borrow the host's models: loaded by its own memory manager, usable in backward, and given back as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from torch import nn

from ..checkpointing import checkpointed
from .private_names import check_patcher
from .weights import trainable_through

__all__ = ["Residency"]

_BLOCKS = ("ResBlock", "BasicTransformerBlock")
"""Of the host's UNets; between them little is kept for backward. SDXL's ``SpatialTransformer`` holds up to ten such blocks in a
row: computed again as a whole, it would have what all ten keep in memory at once. Stable Diffusion 3's blocks checkpoint
themselves."""
_ALL_OF_IT = 1e20
"""More memory than there is: the host then moves every model that is not needed out of the way."""


class Residency:
    """Which of the host's models are needed now, over nested sessions.

    Args:
        patchers: the host's ``ModelPatcher`` of each part: "text", "denoiser", "clip".
    """

    def __init__(self, patchers: Mapping[str, Any]):
        self._patchers = patchers
        self._open: list[tuple[frozenset[str], bool, bool]] = []
        """Parts, gradients and checkpointing of every session, the outermost first."""
        self._borrowed = ExitStack()
        self._held = False

    @contextmanager
    def session(self, *parts: str, gradients: bool = False, checkpointing: bool = False) -> Iterator[None]:
        """``hosts.base.Session``. The codec is not among the parts: the host's VAE loads itself."""
        wanted = frozenset(parts) & self._patchers.keys()
        here, trained, saved = self._needed()
        self._open.append((wanted, gradients, checkpointing))
        try:
            if not wanted <= here or (gradients and not trained) or (checkpointing and not saved):
                self._give_back()
                self._take()
            yield
        finally:
            self._open.pop()
            if not self._open:
                self._give_back()
                if gradients:
                    comfy.model_management.soft_empty_cache()  # what backward held, the host may want for its next node
            elif not self._held:  # what this session wanted could not be had: the outer ones go on with theirs
                self._take()

    @contextmanager
    def interlude(self) -> Iterator[None]:
        """Everything given back while the host does something of its own that may move models about."""
        self._give_back()
        try:
            yield
        finally:
            if self._open:
                self._take()

    def _needed(self) -> tuple[frozenset[str], bool, bool]:
        parts = frozenset[str]().union(*(wanted for wanted, _, _ in self._open))
        return (
            parts,
            any(gradients for _, gradients, _ in self._open),
            any(checkpointing for _, _, checkpointing in self._open),
        )

    def _take(self) -> None:
        parts, gradients, checkpointing = self._needed()
        patchers = [self._patchers[part] for part in sorted(parts)]
        with torch.inference_mode():  # as the host itself would load them
            comfy.model_management.load_models_gpu(
                patchers, memory_required=_ALL_OF_IT if gradients else 0, force_full_load=gradients
            )
        if gradients:
            self._borrowed.enter_context(_in_training())
        for patcher in patchers:
            patcher.pre_run()
            self._borrowed.callback(patcher.cleanup)
            if gradients:
                check_patcher(patcher)
                self._borrowed.enter_context(trainable_through(patcher.model, patcher.load_device))
            if checkpointing:
                self._borrowed.enter_context(checkpointed(_blocks(patcher.model)))
        self._held = True

    def _give_back(self) -> None:
        self._held = False
        self._borrowed.close()


def _blocks(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__ in _BLOCKS]


@contextmanager
def _in_training() -> Iterator[None]:
    """The host's own mark of a training, since v0.16.0: its models then leave out operations that have no backward."""
    before = getattr(comfy.model_management, "in_training", None)
    if before is None:
        yield
        return
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before
