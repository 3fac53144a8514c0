"""Terminal output of commands: messages and progress bars."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from ..errors import ConfigError, listed
from ..escaping import escaped

__all__ = ["INTERRUPTED", "check_progress_bars", "new_bar", "progress_bar", "say", "set_up_streams"]

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def set_up_streams() -> None:
    r"""Escape characters that the encoding of stdout or stderr lacks, such as 猫 to ``\u732b``, and log to stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logger = logging.getLogger(__name__.partition(".")[0])
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
    logger.setLevel(logging.INFO)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def say(sentence: str, *, shown: bool = True) -> None:
    """Print a message to stderr; an empty one is not printed."""
    if sentence and shown:
        print(f"mcti: {escaped(sentence)}", file=sys.stderr)


@contextmanager
def progress_bar(description: str, unit: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (done, total) that updates a progress bar."""
    bar: Any = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if not shown:
            return
        if bar is None:
            bar = new_bar(description, unit, total)
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()


def check_progress_bars() -> None:
    """Raise a ``ConfigError`` if a ``TQDM_*`` environment variable is invalid; tqdm and transformers would fail later."""
    if variables := sorted(name for name in os.environ if name.startswith("TQDM_")):
        try:
            with redirect_stderr(io.StringIO()), progress_bar("", "") as progress:
                progress(1, 2)
        except Exception as error:  # of many types, some raised by the import of tqdm
            problem = f"progress bars cannot be drawn with {listed(variables)} in the environment ({error})"
            raise ConfigError(f"{problem}; unset the one that is no number") from error


def new_bar(description: str, unit: str, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=description, unit=unit, file=sys.stderr, dynamic_ncols=True)
