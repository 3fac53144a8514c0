"""What a person sees while a command runs: lines of text, progress bars."""

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

__all__ = ["check_progress_bars", "new_bar", "progress_bar", "say", "set_up_streams"]


def set_up_streams() -> None:
    r"""Let nothing that is printed end a command: what a stream's encoding cannot hold is escaped, as 猫 to ``\u732b``.

    Standard error does so by itself. What the library logs goes there too, a line each.
    """
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
    """A line beside the results: what a person should know of them. Without a sentence, nothing."""
    if sentence and shown:
        print(f"mcti: {escaped(sentence)}", file=sys.stderr)


@contextmanager
def progress_bar(description: str, unit: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with the time left; the callback takes what is done and what there is."""
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
    """Check that tqdm, which transformers imports too, can use its variables of the environment.

    Raises:
        ConfigError: it cannot.
    """
    if variables := sorted(name for name in os.environ if name.startswith("TQDM_")):
        try:
            with redirect_stderr(io.StringIO()):
                bar = new_bar("", "", 2)
                bar.update(1)
                bar.close()
        except Exception as error:  # of many kinds, the first where tqdm is imported
            raise ConfigError(
                f"progress bars cannot be drawn with {listed(variables)} in the environment ({error}); unset the one that is no number"
            ) from error


def new_bar(description: str, unit: str, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=description, unit=unit, file=sys.stderr, dynamic_ncols=True)
