"""Check a run's outputs before the work: whether they can be written, and whether earlier results are in their place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from ..errors import FileError

__all__ = ["check_writable", "refuse_to_replace"]

_REASONS = {
    errno.ENOTDIR: "part of the path is a file, not a folder",
    errno.EEXIST: "part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the path is too long",
}


def check_writable(folder: str | Path, names: Iterable[str] = (), *, room: int = 1) -> None:
    """Write a test file to the folder and remove it again; missing folders are created temporarily.

    Only writing is a reliable test: permissions, read-only and full disks, and path limits differ between systems.

    Args:
        folder: the folder for the results.
        names: the results' file names. The test file's name is as long as the longest of them.
        room: approximate size of the results in bytes.

    Raises:
        FileError: the folder cannot be written to, a path is too long, or the disk has less room.
    """
    folder = Path(folder)
    missing = [above for above in (folder, *folder.parents) if not os.path.lexists(above)]
    most = max((len(os.fsencode(name) if os.name == "posix" else name) for name in names), default=0)
    tried = folder / f".mcti-{uuid4().hex:0<{max(32, most - 10)}}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(tried, "xb") as file:
            file.write(b"0")
        if (free := shutil.disk_usage(folder).free) < room:
            raise FileError(
                f"{folder} is on a disk with {free / 2**20:.1f} MiB left, and the results take about {room / 2**20:.1f}; make room, "
                "or choose another place"
            )
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise FileError(f"{folder} cannot be written to ({reason}); choose another place") from error
    finally:
        with suppress(OSError):
            tried.unlink(missing_ok=True)
        for made in missing:
            with suppress(OSError):
                made.rmdir()


def refuse_to_replace(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Raise a ``FileError`` for an earlier result, unless it may be overwritten."""
    existing = [] if overwrite else [path for path in paths if os.path.lexists(path)]
    if existing:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise FileError(f"{existing[0]}{more} already exists; replace it with --overwrite, or choose another place")
