"""One run per output: a lock that the system releases when the run ends in any way, also by ``kill -9`` or a power cut."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import FileError
from .writing import refuse_foreign

__all__ = ["lock_output"]

_LOG = logging.getLogger(__name__)
_LOCKED_ERRORS = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""Error numbers for a lock that another process holds."""
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_LOCKED_BYTE = 2**30
"""Offset of the locked byte, far after the process number: Windows lets no process read a locked byte."""


@contextmanager
def lock_output(path: str | Path, *, folder: bool) -> Iterator[None]:
    """Lock an output folder or file for this run. Missing folders are created, and removed if nothing is written there.

    The lock is on a small hidden file in the folder, or beside the file. It is a lock of the system, so a leftover file
    locks nothing. If a file system has no locks, a log line says so.

    Raises:
        FileError: another run holds the lock, the folder cannot be written to, or a foreign file has the lock's name.
    """
    path = Path(path)
    hashed = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    lock = path / ".mcti.lock" if folder else path.parent / f".mcti-{hashed}.lock"
    refuse_foreign(lock, _is_lock)
    new_folders = [above for above in lock.parents if not os.path.lexists(above)]
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(lock, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written ({error.strerror}); choose another place") from error
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        if os.name == "posix":  # while the lock is held, so that no process locks an unlinked file
            lock.unlink(missing_ok=True)
        os.close(descriptor)
        if os.name != "posix":
            with suppress(OSError):  # another run has opened it meanwhile
                lock.unlink(missing_ok=True)
        for new_folder in new_folders:
            with suppress(OSError):  # the folder contains results
                new_folder.rmdir()


def _open_locked(lock: Path, path: Path) -> int:
    """The locked file's descriptor."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
        try:
            _lock(descriptor)
            if os.name != "posix" or os.path.samestat(os.stat(lock), os.fstat(descriptor)):
                return descriptor
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in _LOCKED_ERRORS:
                _LOG.warning("%s cannot be locked (%s); let no other run write there", path, error.strerror)
                return descriptor
            holder = _holder(descriptor)
            os.close(descriptor)
            raise FileError(f"another run{holder} is writing to {path}; wait for it, or choose another place") from None
        os.close(descriptor)  # its previous holder has removed it


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_lock(path: Path) -> bool:
    """Whether a file is a lock: it contains a process number, or nothing."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        content = file.read(21)
    return not content or (content.isdigit() and len(content) < 21)


def _holder(descriptor: int) -> str:
    """The other process's number, if it can be read."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with suppress(OSError):
        number = os.read(descriptor, 20)
        return f" (process {number.decode()})" if number.isdigit() else ""
    return ""
