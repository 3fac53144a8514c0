"""``--output-json FILE``: measurements in a locked file that replaces no foreign file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files.output_lock import lock_output
from ..files.provenance import check_outputs, write_json

__all__ = ["json_output"]


@contextmanager
def json_output(
    path: Path | None, *, overwrite: bool, shown: bool = True
) -> Iterator[Callable[[Mapping[str, Any]], object]]:
    """Check and lock the file, and yield a function that writes its whole content; without a path or ``shown``, a no-op.

    Raises:
        FileError: a foreign file or an earlier result is there, another run holds the lock, or the folder is not writable.
    """
    if path is None or not shown:
        yield lambda content: None
        return
    with lock_output(path, folder=False):
        check_outputs([path], overwrite=overwrite)
        yield lambda content: write_json(content, path)
