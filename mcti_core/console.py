"""What a person sees while a command runs: lines of text, progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .escaping import escaped

__all__ = ["new_bar", "printable", "progress_bar"]


def printable(text: str) -> str:
    r"""The text as one line of standard output: ``escaping.escaped``, with an escape also for what its encoding cannot hold.

    Of a file's name that is not valid UTF-8 a byte 0xE9 is shown as ``\udce9``, as Python does on standard error and
    ``answers.json_line`` in JSON.
    """
    encoding = sys.stdout.encoding or "utf-8"
    return escaped(text).encode(encoding, "backslashreplace").decode(encoding)


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


def new_bar(description: str, unit: str, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=description, unit=unit, file=sys.stderr, dynamic_ncols=True)
