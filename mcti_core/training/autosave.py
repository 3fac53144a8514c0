"""Save a running training regularly, so that no kind of interruption loses it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ..files.writing import delete_own, remove_leftovers
from .checkpoint import is_training, save_checkpoint
from .errors import TrainingError
from .loop import StepInfo

__all__ = ["EVERY", "AutoSaver"]

EVERY = 10.0
"""Seconds between saves; a save takes some milliseconds (docs/reliability.md)."""
_MAX_TIME_SHARE = 0.005
"""Maximum share of the time for saving; with a slow disk or very many classes, saves become rarer."""


class AutoSaver:
    """Saves the training in this context to a file of ``training.checkpoint``: at intervals, and on every exit.

    Args:
        every: seconds between saves; 0 saves after every step.
        log: called once with a message if saves fail, which does not end the training.
    """

    def __init__(self, path: str | Path, *, every: float = EVERY, log: Callable[[str], object] = print):
        self.path, self.every, self.log = Path(path), every, log
        self._last_step: StepInfo | None = None
        self._saved_step, self._save_seconds, self._last_save = 0, 0.0, time.monotonic()
        self._warned = False

    def __enter__(self) -> AutoSaver:
        remove_leftovers(self.path.parent)
        return self

    def __exit__(self, *_: object) -> None:
        if self._last_step is not None and self._last_step.step > self._saved_step:
            self._save(self._last_step)

    def on_step(self, info: StepInfo) -> None:
        """Save if it is time; call it after every step."""
        self._last_step = info
        interval = max(self.every, self._save_seconds / _MAX_TIME_SHARE) if self.every else 0.0
        if time.monotonic() - self._last_save >= interval:
            self._save(info)

    def remove(self) -> None:
        """Remove the file, once the training's tokens are saved."""
        delete_own(self.path, is_training)

    def _save(self, info: StepInfo) -> None:
        start = time.monotonic()
        try:
            save_checkpoint(info.state(), self.path)
            self._saved_step = info.step
        except TrainingError:
            pass  # a number is not finite, which the training itself reports; the last save stays
        except Exception as error:  # a full disk, or a failed device from which nothing can be copied
            if not self._warned:
                self.log(str(error))
            self._warned = True
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - start
