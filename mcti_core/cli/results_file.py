"""Write predictions to a JSON Lines file, resumably.

Each process appends to its own file, the main process to the results file; at the end the files are concatenated. The
image paths in them identify the finished images. Images from an incomplete line onwards are classified again.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ResumeError
from ..files.writing import delete_own, parts_of, refuse_foreign, write_own
from ..training.resume import describe_differences
from .answer_formats import json_line

__all__ = ["ResultsFile", "append_records", "read_records", "refuse_to_lose"]

_RECORD_START = b'{"image": "'
_IMAGE = re.compile(rb'\{"image": "(?:[^"\\]|\\.)*"')
_SECOND = (b', "label": ', b', "error": ')
"""The second key of a record."""
_MAX_LINE, _MAX_PARTIAL, _MAX_MARK = 2**24, 2**18, 2**20
"""Maximum bytes of a record (4,096 classes with confidences), of an incomplete first record, and of the ``.unfinished`` file."""
_FLUSH = 10.0
"""Seconds between fsyncs."""


@dataclass(frozen=True)
class ResultsFile:
    """Results of one run.

    Args:
        identity: everything that the answers depend on, including ``list of images``; a run with another identity cannot resume.
    """

    path: Path
    identity: Mapping[str, str]

    def begin(self, *, resume: bool) -> bool:
        """Prepare the file; called by the main process before the others access it.

        Returns:
            Whether an earlier run is resumed.

        Raises:
            ResumeError: the earlier run has another identity.
        """
        if resume and _mark(self.path).exists():
            self.refuse_others()
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for file in (*parts_of(self.path), self.path):
            refuse_foreign(file, _is_answers)
            delete_own(file, _is_answers)
        text = json.dumps(dict(self.identity), ensure_ascii=True, indent=1)
        write_own(_mark(self.path), lambda temporary: temporary.write_text(text, encoding="utf-8"), _is_mark)
        return False

    def refuse_others(self) -> None:
        """Raise a ``ResumeError`` unless the existing answers have this run's identity."""
        try:
            then = _read_mark(_mark(self.path))
        except (OSError, ValueError, RecursionError) as error:
            raise ResumeError(
                f"{_mark(self.path)} cannot be read ({error}); start over with --restart; several machines need an --output "
                "in a folder that all of them share"
            ) from error
        if changed := describe_differences(then, self.identity):
            raise ResumeError(
                f"the answers in {self.path} belong to a different run ({changed}); give the same images, tokens and options "
                "to resume it, start over with --restart, or choose another --output"
            )

    def answered(self) -> tuple[set[str], int, int]:
        """Paths of the finished images, number of answers, and number of errors among them.

        Incomplete lines are removed, so only the main process calls it, before the others write.
        """
        images, count, errors = set[str](), 0, 0
        for file in filter(Path.exists, (self.path, *parts_of(self.path))):
            end = 0
            with open(file, "rb+") as lines:
                for line in iter(lambda: lines.readline(_MAX_LINE), b""):
                    record = _record(line) if line.endswith(b"\n") else None
                    if record is None or (end == 0 and record["image"] in images):  # finish() was interrupted
                        break
                    images.add(record["image"])
                    count, errors = count + 1, errors + ("error" in record)
                    end += len(line)
                lines.truncate(end)
        return images, count, errors

    def finish(self, answers: int) -> None:
        """Concatenate the files of all processes and delete the parts.

        Raises:
            ResumeError: fewer than ``answers`` lines were written.
        """
        if parts := parts_of(self.path):
            write_own(self.path, lambda temporary: _join((self.path, *parts), answers, temporary), _is_answers)
        for file in parts:
            delete_own(file, _is_answers)
        delete_own(_mark(self.path), _is_mark)


@contextmanager
def append_records(path: Path) -> Iterator[Callable[[Sequence[Mapping[str, Any]]], None]]:
    """Yield a function that appends records to the file and flushes them."""
    flushed = time.monotonic()
    with open(path, "ab") as file:

        def append(records: Sequence[Mapping[str, Any]]) -> None:
            nonlocal flushed
            file.write("".join(f"{json_line(record)}\n" for record in records).encode())
            file.flush()
            if time.monotonic() - flushed > _FLUSH:
                os.fsync(file.fileno())
                flushed = time.monotonic()

        try:
            yield append
        finally:
            os.fsync(file.fileno())


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """All records of a finished file."""
    with open(path, "rb") as lines:
        yield from (record for line in lines if (record := _record(line)) is not None)


def refuse_to_lose(path: Path, *, resume: bool, restart: bool, overwrite: bool = False) -> None:
    """Check existing results before any work. ``overwrite`` replaces complete answers only.

    Raises:
        ResumeError: answers exist, and neither ``resume`` nor ``restart`` applies to them.
        FileError: a foreign file is there.
    """
    for file in (path, *parts_of(path)):
        refuse_foreign(file, _is_answers)
    refuse_foreign(_mark(path), _is_mark)
    if restart:
        return
    if _mark(path).exists():
        if not resume:
            raise ResumeError(
                f"{path} holds unfinished answers; continue with --resume, start over with --restart, or choose another --output"
            )
    elif parts := parts_of(path):
        raise ResumeError(
            f"{parts[0]} holds answers, but nothing says of what; drop them with --restart, move them away, or choose another --output"
        )
    elif path.exists() and path.stat().st_size and not (overwrite and not resume):
        nothing, instead = (", so there is nothing to resume", "--restart") if resume else ("", "--overwrite")
        raise ResumeError(
            f"{path} already exists and is complete{nothing}; replace it with {instead}, or choose another --output"
        )


def _join(files: Sequence[Path], answers: int, target: Path) -> None:
    with open(target, "wb") as out:
        for file in files:
            with open(file, "rb") as lines:
                for line in lines:
                    out.write(line)
                    answers -= 1
    if answers > 0:
        raise ResumeError(f"{answers} answers are missing; run the same command with --resume to continue")


def _record(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None for other programs' records, which may have a key ``image`` too."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("image"), str):
        return None
    kinds = {"label": str | None, "index": int, "unknown": bool}
    answer = all(isinstance(record.get(name, ...), kind) for name, kind in kinds.items())
    return record if answer or record.keys() == {"image", "error"} else None


def _is_answers(path: Path) -> bool:
    """Whether a file begins with a record, complete or incomplete."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        line = file.readline(_MAX_LINE)
    return _record(line) is not None or (len(line) < _MAX_PARTIAL and _is_cut(line))


def _is_cut(line: bytes) -> bool:
    """Whether a line is the beginning of a record. A power failure may replace bytes by zeros."""
    text, zero, behind = line.partition(b"\0")
    if not text.startswith(_RECORD_START):
        return _RECORD_START.startswith(text) and not behind.strip(b"\0")
    if zero and not behind.strip(b"\0") and _record(text) is not None:
        return True
    if line.endswith(b"\n") and not zero:
        return False
    if not (path := _IMAGE.match(text)):
        return True
    rest = text[path.end() :]
    try:
        json.JSONDecoder().raw_decode(text.decode(errors="replace"))
    except (ValueError, RecursionError):  # an incomplete object
        return any(rest.startswith(key) or key.startswith(rest) for key in _SECOND)
    return False


def _is_mark(path: Path) -> bool:
    try:
        identity = _read_mark(path) if path.is_file() else {}
    except (ValueError, RecursionError):
        return False
    return "list of images" in identity and all(isinstance(value, str) for value in identity.values())


def _read_mark(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        identity = json.loads(file.read(_MAX_MARK))
    return identity if isinstance(identity, dict) else {}


def _mark(path: Path) -> Path:
    """The file with the identity; exists until the run is finished."""
    return path.with_name(f"{path.name}.unfinished")
