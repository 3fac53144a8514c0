"""Move or copy files into folders, with undo. No existing file is replaced.

The list of all transfers is written before the first one. A move creates a hard link, which fails if the target exists, and
then removes the source; after an interruption a file has its old name, its new name, or both.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from ..errors import FileError
from .kinds import IMAGE_SUFFIXES, READ_KINDS, kind_of
from .provenance import is_marked, write_json
from .regular import read_limited, read_start
from .writing import delete_own, refuse_foreign, write_own

__all__ = ["transfer", "undo"]

_MAX_LIST_BYTES = 2**26
"""Bytes of a list: about 300,000 files."""


def transfer(
    files: Sequence[tuple[Path, Path]], captions: Mapping[Path, str], root: Path, *, move: bool,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Path:  # fmt: skip
    """Move or copy files into ``root``, and write captions there.

    Args:
        files: (source, target) pairs; the targets do not exist and are in direct subfolders of ``root``.
        captions: path of a new text file in ``root`` -> its content.
        root: created if it does not exist.
        move: whether to move instead of copy.
        progress: called with the numbers of finished files and of all files.

    Returns:
        The list of transfers, for ``undo``.

    Raises:
        FileError: there are too many files, or a target exists or is outside ``root``; the finished transfers can be undone.
        OSError: a file cannot be read or written.
    """
    root.mkdir(parents=True, exist_ok=True)
    places = [[os.path.abspath(source), str(target.relative_to(root))] for source, target in files]
    texts = [[str(path.relative_to(root)), text] for path, text in captions.items()]
    record = {"undo": "moved" if move else "copied", "folder": root.stat().st_ino, "files": places, "captions": texts}
    if len(json.dumps(record, indent=1)) > _MAX_LIST_BYTES:
        raise FileError(f"the list of {len(files):,} files exceeds {_MAX_LIST_BYTES >> 20} MiB; sort fewer at once")
    free = next(path for number in count(1) if not os.path.lexists(path := root / f"undo-{number}.json"))
    listed = write_json(record, free)
    for number, (source, target) in enumerate(files, 1):
        _transfer(source, target, root, move=move)
        progress(number, len(files))
    for path, text in captions.items():
        write_own(path, partial(Path.write_text, data=text, encoding="utf-8"), _never_own, root=root)
    return listed


def undo(path: Path) -> tuple[int, list[str]]:
    """Move files back, and remove copies and captions that have not changed. If no file stays, the list is deleted.

    Returns:
        The number of files moved back or removed, and a message per file that stays.

    Raises:
        FileError: the file is not a list of transfers into its own folder.
    """
    record, root = _read(path), path.parent
    problems, done = list[str](), 0
    steps = [(root / target, Path(source), None) for source, target in record["files"]]
    texts = [(root / target, None, text) for target, text in record["captions"]]
    for target, source, text in [*texts, *steps]:
        if not os.path.lexists(target):  # not transferred, or already moved back
            continue
        try:
            if reason := _obstacle(target, source, text, root, moved=record["undo"] == "moved"):
                problems.append(f"{target} stays: {reason}")
                continue
            if source is not None and not os.path.lexists(source):
                source.parent.mkdir(parents=True, exist_ok=True)
                _transfer(target, source, source.parent, move=True)
            else:
                target.unlink()
            done += 1
        except (OSError, ValueError, FileError) as error:  # a ValueError for a surrogate in a path
            problems.append(f"{target} stays: {error}")
    for folder in {target.parent for target, _, _ in [*steps, *texts]}:
        with suppress(OSError):  # not empty
            if folder.parent == root:
                folder.rmdir()
    if not problems:
        delete_own(path, is_marked)
    return done, problems


def _obstacle(target: Path, source: Path | None, text: str | None, root: Path, *, moved: bool) -> str:
    """Why a transfer is not undone. Only images and their captions are moved or removed."""
    if source is not None and os.path.realpath(source) == os.path.realpath(target):
        return "its old and new path are the same"
    if target.is_symlink() or not Path(os.path.realpath(target.parent)).is_relative_to(os.path.realpath(root)):
        return f"it is a link, or outside {root}"
    start = read_start(target, 64)  # refuses pipes and devices, which other ways of reading would wait for
    is_caption = target.suffix == ".txt"
    is_image = target.suffix.lower() in ("", *IMAGE_SUFFIXES) and kind_of(start) in READ_KINDS
    if not is_caption and not is_image:
        return "it is not an image"
    if text is not None:
        content = text.encode("utf-8", "surrogatepass")
        same = is_caption and target.stat().st_size == len(content) and target.read_bytes() == content
        return "" if same else "it has changed"
    if source is None or source.suffix != target.suffix:
        return "its old name has another suffix"
    if os.path.lexists(source):
        same = source.is_file() and filecmp.cmp(source, target, shallow=False)
        return "" if same else f"{source} exists and differs"
    return "" if moved else f"{source}, the original of this copy, no longer exists"


def _transfer(source: Path, target: Path, root: Path, *, move: bool) -> None:
    refuse_foreign(target, _never_own, root=root)
    target.parent.mkdir(exist_ok=True)
    linked = False
    if move:
        with suppress(OSError):  # another disk, or a file system without hard links
            os.link(source, target, follow_symlinks=False)
            linked = True
    if not linked:
        write_own(target, partial(shutil.copy2, source), _never_own, root=root)
    if move:
        source.unlink()


def _never_own(path: Path) -> bool:
    """No existing file is replaced, not even one of this program."""
    return False


def _read(path: Path) -> dict[str, Any]:
    """Read and validate the list of transfers. It is untrusted; it must contain the inode number of its folder, which the author
    of a foreign list does not know."""
    try:
        record = json.loads(read_limited(path, _MAX_LIST_BYTES))
        is_for_this_folder = record["folder"] == path.parent.stat().st_ino
        pairs = [*record["files"], *record["captions"]]
        texts = [text for pair in pairs for text in pair]
        is_list = record["undo"] in ("moved", "copied") and all(isinstance(p, list) and len(p) == 2 for p in pairs)
        is_list = is_list and all(isinstance(text, str) and "\0" not in text for text in texts)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        is_list = False
    if not is_list:
        raise FileError(f"{path} is not a list of transfers; name the undo-NUMBER.json in the sorted folder")
    if not is_for_this_folder:
        raise FileError(f"{path} was written for another folder, or for one that was copied; move the files by hand")
    return record  # type: ignore[no-any-return]
