"""Write a file atomically."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

__all__ = ["remove_leftovers", "write_atomically"]

_LEFTOVER = re.compile(r"\.mcti-[0-9a-f]{32,}\.tmp")
_LEFTOVER_AGE = 3600
"""Age in seconds above which a temporary file is no longer in use."""


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, and then rename it.

    After any failure, ``path`` contains either its old content or all of the new content, and the temporary file is
    removed. Missing folders are created.

    Args:
        path: the file to write or to replace.
        write: called with the path of an empty file to fill.

    Returns:
        ``path``.

    Raises:
        OSError: the folder cannot be written to. What ``write`` raises passes through.
    """
    path = Path(path)
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".mcti-{uuid4().hex}.tmp"
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        write(temporary)
        os.chmod(temporary, mode)  # safetensors creates files that only their owner can read
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    for folder in (path.parent, *(new.parent for new in missing)):
        _flush_folder(folder)
    return path


def remove_leftovers(folder: str | Path) -> None:
    """Remove temporary files of processes that ended while writing."""
    for file in Path(folder).glob(".mcti-*.tmp"):
        try:
            if _LEFTOVER.fullmatch(file.name) and time.time() - file.stat().st_mtime > _LEFTOVER_AGE:
                file.unlink()
        except OSError:  # another process was faster, or has more permissions
            continue


def _flush_folder(folder: Path) -> None:
    """Flush the new name to disk, if the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot; the file itself is already complete
        pass
    finally:
        os.close(descriptor)
