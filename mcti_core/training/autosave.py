"""Keep a training on the disk while it runs, so that nothing which ends it loses what it learned."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from ..files.atomic import remove_leftovers
from ..files.ownership import delete_own
from .checkpoint import is_training, save_checkpoint
from .errors import TrainingError
from .loop import StepInfo

__all__ = ["EVERY", "AutoSaver"]

EVERY = 10.0
"""Seconds of training that a power cut may cost; a save takes some milliseconds (docs/reliability.md)."""
_SHARE = 0.005
"""Of the time that saving may take: where a disk is slow or there are very many classes, saves become rarer."""


class AutoSaver:
    """The training inside this context is in a file: from time to time, and as it stood at the end, however it ended.

    What stands in the way of saving is told and does not end the training.

    Args:
        path: of the file, see ``training.checkpoint``.
        every: seconds between saves; 0 saves after every step.
        tell: called with a sentence when a save fails, once.
    """

    def __init__(self, path: str | Path, *, every: float = EVERY, tell: Callable[[str], object] = print):
        self.path, self.every, self.tell = Path(path), every, tell
        self._last: StepInfo | None = None
        self._saved, self._took, self._at = 0, 0.0, time.monotonic()
        self._told = False

    def __enter__(self) -> AutoSaver:
        remove_leftovers(self.path.parent)
        self._at = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._last is not None and self._last.step > self._saved:
            self._save(self._last)

    def on_step(self, info: StepInfo) -> None:
        """To be called after every step."""
        self._last = info
        rest = max(self.every, self._took / _SHARE) if self.every else 0.0
        if time.monotonic() - self._at >= rest:
            self._save(info)

    def remove(self) -> None:
        """The training is done, and its tokens are where they belong."""
        delete_own(self.path, is_training)

    def _save(self, info: StepInfo) -> None:
        begun = time.monotonic()
        try:
            save_checkpoint(info.state(), self.path)
            self._saved = info.step
        except TrainingError:
            pass  # its numbers are no longer finite, which the training itself will tell; the last save stays
        except Exception as error:  # a full disk, or a device that failed and gives nothing back any more
            if not self._told:
                self.tell(str(error))
            self._told = True
        self._at = time.monotonic()
        self._took = self._at - begun
