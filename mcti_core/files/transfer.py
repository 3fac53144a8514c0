"""Move or copy files into folders so that everything can be undone: no file is ever replaced, and none is lost.

The list of all transfers is written before the first one. A file is moved by a second name for it, which fails if that name is
taken, and then by taking away the first name; so an interruption leaves a file under its old name, its new name, or both.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import FileError
from .kinds import IMAGE_SUFFIXES, READ_KINDS, kind_of
from .ownership import delete_own, refuse_foreign, write_own
from .provenance import is_marked, write_json
from .regular import open_regular

__all__ = ["transfer", "undo", "undo_file"]

_LARGEST = 2**26
"""Bytes of a list: about 300,000 files."""


def undo_file(root: Path) -> Path:
    """Where the next list of transfers into this folder goes."""
    number = 1
    while os.path.lexists(path := root / f"undo-{number}.json"):
        number += 1
    return path


def transfer(
    files: Sequence[tuple[Path, Path]], captions: Mapping[Path, str], root: Path, *, move: bool,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Path:  # fmt: skip
    """Move or copy files to new places in ``root``, and write captions there.

    Args:
        files: (source, target) pairs; the targets are in folders directly in ``root`` and are not there yet.
        captions: new text files in ``root`` and their content.
        root: is created if it is missing.
        move: or copy.
        progress: called with the number of finished files and of all files.

    Returns:
        The file that ``undo`` takes.

    Raises:
        FileError: a target is there or leads out of ``root``; what was done until then can be undone. Or there are too many files.
        OSError: a file cannot be read or written.
    """
    root.mkdir(parents=True, exist_ok=True)
    places = [[os.path.abspath(source), str(target.relative_to(root))] for source, target in files]
    texts = [[str(path.relative_to(root)), text] for path, text in captions.items()]
    record = {"undo": "moved" if move else "copied", "folder": root.stat().st_ino, "files": places, "captions": texts}
    if len(json.dumps(record, indent=1)) > _LARGEST:
        raise FileError(
            f"the list of {len(files):,} files would be larger than {_LARGEST >> 20} MiB; sort fewer at once"
        )
    listed = write_json(record, undo_file(root))
    for number, (source, target) in enumerate(files, 1):
        _transfer(source, target, root, move=move)
        progress(number, len(files))
    for path, text in captions.items():
        _create(path, lambda file, text=text: file.write_text(text, encoding="utf-8"), root)  # type: ignore[misc]
    return listed


def undo(path: Path) -> tuple[int, list[str]]:
    """Put moved files back, and remove copies and captions, as far as they are still what they were.

    Returns:
        The number of files put back or removed, and a line about each that stays. Without any, the list is deleted.

    Raises:
        FileError: the file is not a list of transfers into its own folder.
    """
    record, root = _read(path), path.parent
    problems, done = list[str](), 0
    steps = [(root / target, Path(source), None) for source, target in record["files"]]
    texts = [(root / target, None, text) for target, text in record["captions"]]
    for target, source, text in [*texts, *steps]:
        if not os.path.lexists(target):  # it was not transferred, or is put back already
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
        except (OSError, FileError) as error:
            problems.append(f"{target} stays: {error}")
    for folder in {target.parent for target, _, _ in [*steps, *texts]}:
        with suppress(OSError):  # it contains other files
            if folder.parent == root:
                folder.rmdir()
    if not problems:
        delete_own(path, is_marked)
    return done, problems


def _obstacle(target: Path, source: Path | None, text: str | None, root: Path, *, moved: bool) -> str:
    """Why a transfer is not undone: only images and their captions are ever moved or removed."""
    if source is not None and os.path.realpath(source) == os.path.realpath(target):
        return "it would be put in its own place"
    if target.is_symlink() or not Path(os.path.realpath(target.parent)).is_relative_to(os.path.realpath(root)):
        return f"it is a link, or outside {root}"
    with open_regular(target) as file:
        begin = file.read(64) or b""
    is_caption = target.suffix == ".txt"
    is_image = target.suffix.lower() in ("", *IMAGE_SUFFIXES) and kind_of(begin) in READ_KINDS
    if not is_caption and not is_image:
        return "it is not an image"
    if text is not None:
        written = text.encode()
        same = is_caption and target.stat().st_size == len(written) and target.read_bytes() == written
        return "" if same else "it has changed"
    if source is None or source.suffix != target.suffix:
        return "its name before was another kind of file's"
    if os.path.lexists(source):
        same = source.is_file() and filecmp.cmp(source, target, shallow=False)
        return "" if same else f"{source} is there and differs"
    return "" if moved else f"{source}, which it is a copy of, is gone"


def _transfer(source: Path, target: Path, root: Path, *, move: bool) -> None:
    refuse_foreign(target, lambda _: False, root=root)
    target.parent.mkdir(exist_ok=True)
    if move:
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:  # another disk, or a file system without a second name for a file
            _create(target, lambda file: shutil.copy2(source, file), root)
        source.unlink()
    else:
        _create(target, lambda file: shutil.copy2(source, file), root)


def _create(path: Path, write: Callable[[Path], object], root: Path) -> None:
    write_own(path, write, lambda _: False, root=root)


def _read(path: Path) -> dict[str, Any]:
    """The list, if it is one of its folder. A list of others names places at will, but not the number of a folder that it comes into."""
    try:
        with open_regular(path) as file:
            record = json.loads(file.read(_LARGEST + 1) or b"")
        own = record["folder"] == path.parent.stat().st_ino
        known = record["undo"] in ("moved", "copied") and all(
            isinstance(pair, list)
            and len(pair) == 2
            and all(isinstance(text, str) and "\0" not in text for text in pair)
            for pair in [*record["files"], *record["captions"]]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise FileError(
            f"{path} is not a list of transfers; name the undo-NUMBER.json in the folder that was sorted into"
        )
    if not own:
        raise FileError(
            f"{path} is a list of transfers into another folder, or into one that was copied since; move the files by hand"
        )
    return record  # type: ignore[no-any-return]
