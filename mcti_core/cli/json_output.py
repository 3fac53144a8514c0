"""``--json FILE``: a table of measurements, which is not lost nor written over a file of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["json_output"]


@contextmanager
def json_output(
    path: Path | None, *, overwrite: bool, shown: bool = True
) -> Iterator[Callable[[Mapping[str, Any]], object]]:
    """Check and lock the file; what is yielded writes the whole content, each time. Without a path, or not ``shown``, nothing.

    Raises:
        FileError: a file of others, an earlier result, or another run is there, or the folder cannot be written to.
    """
    from ..files.output_lock import lock_output
    from ..files.outputs import check_writable, refuse_to_replace
    from ..files.ownership import refuse_foreign
    from ..files.provenance import is_marked, write_json

    if path is None or not shown:
        yield lambda content: None
        return
    refuse_foreign(path, is_marked)
    check_writable(path.parent, [path.name])
    with lock_output(path, folder=False):
        refuse_to_replace([path], overwrite=overwrite)
        yield lambda content: write_json(content, path)
