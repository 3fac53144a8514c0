"""Write a file whole or not at all."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

__all__ = ["remove_leftovers", "write_atomically"]

_LEFTOVER = re.compile(r"\.mcti-[0-9a-f]{32,}\.tmp")
_LEFT_SECONDS = 3600
"""No file is being written for so long."""


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, send it to the disk, and only then give it its name.

    Whatever goes wrong, ``path`` holds either what it held before or all of the new content, and the temporary file is
    gone. Folders that are missing are made.

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
        os.chmod(temporary, mode)  # safetensors leaves files that only their owner can read
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
    """Clear away temporary files of programs that were ended in the middle of writing."""
    for file in Path(folder).glob(".mcti-*.tmp"):
        try:
            if _LEFTOVER.fullmatch(file.name) and time.time() - file.stat().st_mtime > _LEFT_SECONDS:
                file.unlink()
        except OSError:  # somebody else was faster, or may do more here than we
            continue


def _flush_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot; the file itself is whole already
        pass
    finally:
        os.close(descriptor)
