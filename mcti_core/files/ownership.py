"""Guarded writing and deleting: a file that this program did not write is never replaced or removed."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import FileError
from .atomic import write_atomically

__all__ = ["IsOwn", "delete_own", "refuse_foreign", "refuse_foreign_twins", "set_aside", "write_own"]

IsOwn = Callable[[Path], bool]
"""Whether this program wrote a file, by its content."""


def write_own(path: str | Path, write: Callable[[Path], object], is_own: IsOwn, *, root: Path | None = None) -> Path:
    """``files.atomic.write_atomically``, unless a foreign file is in the way.

    Raises:
        FileError: see ``refuse_foreign``.
        OSError: the folder cannot be written to. What ``write`` raises passes through.
    """
    refuse_foreign(path, is_own, root=root)
    return write_atomically(path, write)


def delete_own(path: str | Path, is_own: IsOwn, *, root: Path | None = None) -> bool:
    """Remove a file that this program wrote. A foreign file, a link, or a file outside ``root`` stays.

    Returns:
        Whether it was removed.
    """
    path = Path(path)
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
    path = Path(path)
    if reason := _obstacle(path, is_own, root):
        raise FileError(f"{path}{reason}")


def refuse_foreign_twins(
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
            meant, twin = names.get(_folded(entry)), folder / entry
            if meant is not None and twin != meant and not is_own(twin):
                raise FileError(
                    f"{twin} was not written by MC-TI, and programs would take it for {meant.name}; choose another name or folder, "
                    "or move it away"
                )


def set_aside(path: str | Path) -> Path:
    """Rename an unusable file instead of deleting it; no other file is replaced.

    Returns:
        Its new path, ``<name>.unusable`` or ``<name>.unusable-2`` and so on.
    """
    path, number = Path(path), 1
    while True:
        other = path.with_name(f"{path.name}.unusable" + (f"-{number}" if number > 1 else ""))
        if not os.path.lexists(other):
            return path.rename(other)
        number += 1


def _obstacle(path: Path, is_own: IsOwn, root: Path | None) -> str:
    if root is not None:
        inside, whole = os.path.realpath(root), os.path.realpath(path.parent)
        if os.path.commonpath([inside, whole]) != inside:
            return f" is outside {root}, where a link leads; choose another name or folder"
    above = next(folder for folder in path.parents if os.path.lexists(folder))
    if not above.is_dir() or not os.access(above, os.W_OK):
        return f" cannot be written, since {above} is not a folder or is not writable; choose another name or folder"
    try:
        os.lstat(path)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:  # too long, or with a null character or a surrogate half
        if isinstance(error, UnicodeEncodeError) and error.encoding != "utf-8":
            raise  # a letter that the locale lacks; the command line explains it
        return f" cannot be written ({getattr(error, 'strerror', error)}); choose another name or folder"
    if path.is_symlink():
        return " is a link; choose another name or folder, or move it away"
    if not path.is_file():
        return " already exists and is not a file; choose another name or folder, or move it away"
    return (
        ""
        if is_own(path)
        else " already exists and was not written by MC-TI; choose another name or folder, or move it away"
    )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
