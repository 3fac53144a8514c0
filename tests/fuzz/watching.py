"""Notice what no input may do: write elsewhere, start a program, open a connection."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from .settings import Broken

__all__ = ["misdeeds", "watch"]

_STARTING = (
    "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.connect", "socket.getaddrinfo",
)  # fmt: skip
_WRITING = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.symlink", "os.link", "os.truncate", "os.chmod")
"""Audit events of starting programs or connections, and of changing files."""
misdeeds: list[str] = []
"""What ``watch`` has seen; kept, since readers swallow exceptions."""


def watch(folder: Path) -> None:
    """From now on this process may write below ``folder`` alone, start no program and open no connection."""
    inside = os.path.realpath(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTING:
            misdeeds.append(f"{event} {arguments[:2]}")
            raise Broken(misdeeds[-1])
        writing = event in _WRITING
        if event == "open":
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            writing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        if writing and isinstance(arguments[0], (str, bytes, os.PathLike)):
            given = os.fsdecode(arguments[0])
            path = given if given == "/proc/self/clear_refs" else os.path.realpath(given)
            if not path.startswith((inside + os.sep, "/dev/", "/proc/self/clear_refs")):
                misdeeds.append(f"{event} {path}")
                raise Broken(misdeeds[-1])

    sys.addaudithook(hook)
