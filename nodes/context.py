"""Context managers and progress bars for nodes: leave inference mode, show progress, shorten errors."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.utils
import torch

from ..mcti_core.errors import MCTIError
from ..mcti_core.escaping import escaped

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ProgressReporter", "node_context", "user_errors"]

_PREVIEW_SECONDS = 1.5
_LOG_SECONDS = 15.0
_PREVIEW_PIXELS = 768


@contextmanager
def node_context() -> Iterator[None]:
    """Leave inference mode, in which ComfyUI runs nodes and which does not allow a backward pass."""
    with user_errors(), torch.inference_mode(False), torch.no_grad():
        yield


@contextmanager
def user_errors() -> Iterator[None]:
    """Convert an ``MCTIError`` to a ``ValueError`` without the library's stack frames, and free the tensors of what failed."""
    try:
        yield
    except MCTIError as error:  # a new exception, since contextlib restores the frames of the same one
        _clear_frames(error)
        raise ValueError(escaped(str(error))) from None
    except BaseException as error:
        _clear_frames(error)
        raise


def _clear_frames(error: BaseException | None) -> None:
    """Drop the variables of all frames that the error refers to. ComfyUI's own frame and the error's traceback refer to each
    other, so that a failed step's tensors would stay on the device until Python collects garbage."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class ProgressReporter:
    """Progress bar and live preview of a node.

    Args:
        name: name of the work in the log.
    """

    def __init__(self, name: str):
        self.name = name
        self._bar: comfy.utils.ProgressBar | None = None
        self._started = self._drawn = self._logged = time.monotonic()
        self._first = 0

    def __call__(self, done: int, total: int, preview: Callable[[], Image] | None = None) -> None:
        """Show that ``done`` of ``total`` is finished. ``preview`` is called every 1.5 seconds at most, and at the end.

        Raises:
            InterruptProcessingException: the user cancels.
        """
        now = time.monotonic()
        if self._bar is None:
            self._bar, self._started, self._first = comfy.utils.ProgressBar(total), now, done
        drawing = None
        if preview is not None and (now - self._drawn > _PREVIEW_SECONDS or done == total):
            drawing, self._drawn = ("JPEG", preview().convert("RGB"), _PREVIEW_PIXELS), time.monotonic()
        self._bar.update_absolute(done, total, drawing)
        if now - self._logged > _LOG_SECONDS and done > self._first:
            self._logged = now
            seconds_left = (now - self._started) / (done - self._first) * (total - done)
            logging.info("MC-TI %s: %d of %d, %.0f s left", self.name, done, total, seconds_left)
        comfy.model_management.throw_exception_if_processing_interrupted()
