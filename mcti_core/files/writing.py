"""Guarded, atomic writing: a file that this program did not write is never replaced or removed."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

from ..errors import FileError

__all__ = [
    "IsOwn", "check_writable", "delete_own", "part_path", "parts_of", "refuse_foreign", "refuse_lookalikes", "refuse_to_replace",
    "remove_leftovers", "set_aside", "write_atomically", "write_own",
]  # fmt: skip

IsOwn = Callable[[Path], bool]
"""Whether this program wrote a file, by its content."""
_LEFTOVER = re.compile(r"\.mcti-[0-9a-f]{32,}\.tmp")
_LEFTOVER_AGE = 3600
"""Age in seconds above which a temporary file is taken to be abandoned."""
_REASONS = {
    errno.ENOTDIR: "part of the path is a file, not a folder",
    errno.EEXIST: "part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the path is too long",
}


def write_own(path: str | Path, write: Callable[[Path], object], is_own: IsOwn, *, root: Path | None = None) -> Path:
    """``write_atomically``, unless a foreign file is in the way: see ``refuse_foreign``."""
    refuse_foreign(path, is_own, root=root)
    return write_atomically(path, write)


def delete_own(path: Path, is_own: IsOwn, *, root: Path | None = None) -> bool:
    """Remove the file if this program wrote it and it is no link and inside ``root``; return whether it was removed."""
    if not os.path.lexists(path) or _obstacle(path, is_own, root):
        return False
    path.unlink(missing_ok=True)
    return True


def refuse_foreign(path: str | Path, is_own: IsOwn, *, root: Path | None = None) -> None:
    """Check that ``path`` may be written, without creating anything.

    Args:
        is_own: whether this program wrote an existing file.
        root: the folder that ``path`` must stay in, also through links; it may itself be a link.

    Raises:
        FileError: a foreign file is there; ``path`` is a link or a folder, or leads out of ``root``.
    """
    if reason := _obstacle(Path(path), is_own, root):
        raise FileError(f"{path}{reason}")


def refuse_lookalikes(
    paths: Iterable[Path], folders: Iterable[Path], is_own: IsOwn, suffixes: Iterable[str] = ()
) -> None:
    """Check that no foreign file in ``folders`` could be confused with one of ``paths``: none has the same name in another case
    or with another of the ``suffixes``. Each folder is read once.

    Raises:
        FileError: there is such a file.
    """
    names: dict[str, Path] = {}
    for path in paths:
        names |= dict.fromkeys((_folded(path.name), *(_folded(path.stem + suffix) for suffix in suffixes)), path)
    for folder in folders:
        try:
            entries = sorted(os.listdir(folder))
        except OSError:  # it is created later
            continue
        for entry in entries:
            target, other = names.get(_folded(entry)), folder / entry
            if target is not None and other != target and not is_own(other):
                raise FileError(
                    f"{other} was not written by MC-TI, and programs would take it for {target.name}; choose another name or folder, "
                    "or move it away"
                )


def refuse_to_replace(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Raise a ``FileError`` for an earlier result, unless it may be overwritten."""
    existing = [] if overwrite else [path for path in paths if os.path.lexists(path)]
    if existing:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise FileError(f"{existing[0]}{more} already exists; replace it with --overwrite, or choose another place")


def set_aside(path: Path) -> Path:
    """Rename an unusable file to ``<name>.unusable``, ``<name>.unusable-2`` and so on; no other file is replaced."""
    names = (f"{path.name}.unusable" + (f"-{number}" if number > 1 else "") for number in count(1))
    return path.rename(next(free for name in names if not os.path.lexists(free := path.with_name(name))))


def check_writable(folder: str | Path, names: Iterable[str] = (), *, room: int = 1) -> None:
    """Write a test file to the folder and remove it again; missing folders are created temporarily.

    Only writing is a reliable test: permissions, read-only and full disks, and path limits differ between systems.

    Args:
        names: the results' file names. The test file's name is as long as the longest of them.
        room: approximate size of the results in bytes.

    Raises:
        FileError: the folder cannot be written to, a path is too long, or the disk has less room.
    """
    folder = Path(folder)
    new_folders = [above for above in (folder, *folder.parents) if not os.path.lexists(above)]
    longest = max((len(os.fsencode(name) if os.name == "posix" else name) for name in names), default=0)
    test_file = folder / f".mcti-{uuid4().hex:0<{max(32, longest - 10)}}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(test_file, "xb") as file:
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
            test_file.unlink(missing_ok=True)
        for new_folder in new_folders:
            with suppress(OSError):
                new_folder.rmdir()


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, and then rename it; return ``path``.

    After any failure, ``path`` contains either its old content or all of the new content, and the temporary file is
    removed. Missing folders are created.

    Raises:
        OSError: the folder cannot be written to. What ``write`` raises passes through.
    """
    path = Path(path)
    new_folders = [folder for folder in path.parents if not folder.exists()]
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
    for folder in (path.parent, *(new_folder.parent for new_folder in new_folders)):
        _flush_folder(folder)
    return path


def part_path(path: Path, process: int) -> Path:
    """File to which a process writes its share of the results: ``path`` itself for process 0."""
    return path.with_name(f"{path.name}.part-{process:05d}") if process else path


def parts_of(path: Path) -> list[Path]:
    """Existing files of the processes other than 0, ordered by process."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.part-{'[0-9]' * 5}"))


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that ended while writing: those older than an hour."""
    for file in folder.glob(".mcti-*.tmp"):
        with suppress(OSError):  # another process was faster, or has more permissions
            if _LEFTOVER.fullmatch(file.name) and time.time() - file.stat().st_mtime > _LEFTOVER_AGE:
                file.unlink()


def _obstacle(path: Path, is_own: IsOwn, root: Path | None) -> str:
    """Why the path may not be written; empty if it may."""
    elsewhere = "choose another name or folder"  # spelt out where a help page quotes the message
    if root is not None:
        inside, parent = os.path.realpath(root), os.path.realpath(path.parent)
        if os.path.commonpath([inside, parent]) != inside:
            return f" is outside {root}, where a link leads; choose another name or folder"
    above = next(folder for folder in path.parents if os.path.lexists(folder))
    if not above.is_dir() or not os.access(above, os.W_OK):
        return f" cannot be written, since {above} is not a folder or is not writable; {elsewhere}"
    try:
        os.lstat(path)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:  # too long, or with a null character or a surrogate
        if isinstance(error, UnicodeEncodeError) and error.encoding != "utf-8":
            raise  # a letter that the locale lacks; the command line explains it
        return f" cannot be written ({getattr(error, 'strerror', error)}); {elsewhere}"
    if path.is_symlink():
        return f" is a link; {elsewhere}, or move it away"
    if not path.is_file():
        return f" already exists and is not a file; {elsewhere}, or move it away"
    if not is_own(path):
        return " already exists and was not written by MC-TI; choose another name or folder, or move it away"
    return ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


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
