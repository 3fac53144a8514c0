"""Open regular files only: reading a named pipe or some files in /proc may block, and a device may never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

__all__ = ["name_of", "open_regular", "read_limited", "read_start"]

_KINDS = {
    stat.S_IFDIR: "it is a folder",
    stat.S_IFIFO: "it is a named pipe, not a file",
    stat.S_IFSOCK: "it is a socket, not a file",
}


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a regular file for reading without blocking: ``read`` returns None if there is nothing to read yet.

    Raises:
        OSError: it is missing, not a regular file, or may not be read; or the path is invalid.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a null character, or a surrogate
        raise OSError(str(error)) from error
    _refuse_irregular(mode)  # before it is opened, which may already start a device
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb")
    try:
        _refuse_irregular(os.fstat(descriptor).st_mode)  # another file may have replaced it
    except OSError:
        file.close()
        raise
    return file


def name_of(file: IO[bytes], path: str | Path) -> str:
    """A path to the open file in /proc, for libraries that open it again; without /proc, the file's own path."""
    name = f"/proc/self/fd/{file.fileno()}"
    return name if os.path.exists(name) else str(path)


def read_start(path: str | Path, count: int) -> bytes:
    """The first ``count`` bytes of a regular file, or all of a shorter one; raises as ``open_regular``."""
    with open_regular(path) as file:
        return file.read(count) or b""


def read_limited(path: str | Path, most: int) -> bytes:
    """All bytes of a regular file. Raises an ``OSError`` as ``open_regular``, or if there are more than ``most``."""
    content = read_start(path, most + 1)
    if len(content) > most:
        limit = f"{most >> 20} MiB" if most >= 2**20 else f"{most >> 10} KiB"
        raise OSError(f"it is larger than {limit}")
    return content


def _refuse_irregular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(_KINDS.get(stat.S_IFMT(mode), "it is a device, not a file"))
