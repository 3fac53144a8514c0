"""Open regular files only: a named pipe would be waited for, a device may never end, and some of /proc wait for what is not there yet."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

__all__ = ["name_of", "open_regular"]

_NOT_A_FILE = (
    (stat.S_ISDIR, "it is a folder"),
    (stat.S_ISFIFO, "it is a named pipe, not a file"),
    (stat.S_ISSOCK, "it is a socket, not a file"),
)


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a regular file for reading. Nothing waits: where there is nothing to read yet, ``read`` gives None.

    Raises:
        OSError: it is missing, not a regular file, or may not be read; or the path contains characters that no path has.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a null character, or half of a character
        raise OSError(str(error)) from error
    _refuse_irregular(mode)  # before it is opened, which may already start a device
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb")
    try:
        _refuse_irregular(os.fstat(descriptor).st_mode)  # it may be another one by now
    except OSError:
        file.close()
        raise
    return file


def name_of(file: IO[bytes], path: str | Path) -> str:
    """A path to the file that is open, for libraries that open it again; where the system has none, its own path."""
    name = f"/proc/self/fd/{file.fileno()}"
    return name if os.path.exists(name) else str(path)


def _refuse_irregular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(next((reason for test, reason in _NOT_A_FILE if test(mode)), "it is a device, not a file"))
