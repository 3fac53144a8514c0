"""Write the answers to very many images to one file, resumably, one JSON object per line.

Each process appends to a file of its own, the first one to the results file itself; at the end these files are concatenated.
Their paths say which images have been answered. An incomplete line, and what follows it, is answered again.
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
from ..files.ownership import delete_own, refuse_foreign, write_own
from ..training.resume import describe_differences
from .json_line import json_line

__all__ = ["ResultsFile", "append_records", "read_records", "refuse_to_lose"]

_BEGIN = b'{"image": "'
_IMAGE = re.compile(rb'\{"image": "(?:[^"\\]|\\.)*"')
_SECOND = (b', "label": ', b', "error": ')
"""How an answer goes on behind its image's path."""
_LONGEST_LINE, _LONGEST_CUT, _LONGEST_MARK = 2**24, 2**18, 2**20
"""Bytes of an answer (4,096 classes with their confidences), of the cut one by which a file is known, and of a mark."""
_FLUSH = 10.0
"""Seconds of answers that a power cut may cost."""


@dataclass(frozen=True)
class ResultsFile:
    """One run's answers, as far as they are there.

    Args:
        path: the file.
        identity: what the answers are of, ``list of images`` among it; those of two runs that differ here are never mixed.
    """

    path: Path
    identity: Mapping[str, str]

    def begin(self, *, resume: bool) -> bool:
        """Make the file ready to be resumed or begun. For one process, before the others look at it.

        Returns:
            Whether there is something to resume.

        Raises:
            ResumeError: what is there to resume is of another run.
        """
        if resume and _mark(self.path).exists():
            self.refuse_others()
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for file in (*_parts(self.path), self.path):
            refuse_foreign(file, _is_answers)
            delete_own(file, _is_answers)
        text = json.dumps(dict(self.identity), ensure_ascii=True, indent=1)
        write_own(_mark(self.path), lambda temporary: temporary.write_text(text, encoding="utf-8"), _is_mark)
        return False

    def refuse_others(self) -> None:
        """Raise a ``ResumeError`` unless the answers that are there are of this run."""
        try:
            with open(_mark(self.path), "rb") as file:
                then = json.loads(file.read(_LONGEST_MARK))
        except (OSError, ValueError, RecursionError) as error:
            raise ResumeError(
                f"{_mark(self.path)} cannot be read ({error}); start over with --restart; several machines need an --out "
                "in a folder that all of them share"
            ) from error
        told = describe_differences(then if isinstance(then, dict) else {}, self.identity)
        if told:
            raise ResumeError(
                f"the answers in {self.path} belong to a different run ({told}); give the same images, tokens and options "
                "to resume it, start over with --restart, or choose another --out"
            )

    def answered(self) -> tuple[set[str], int, int]:
        """Paths of the images that have their answers, how many answers these are, and how many of them are errors.

        Cut lines go from the files, so it is for one process, before the others write.
        """
        images, count, errors = set[str](), 0, 0
        for file in filter(Path.exists, (self.path, *_parts(self.path))):
            end = 0
            with open(file, "rb+") as lines:
                for line in iter(lambda: lines.readline(_LONGEST_LINE), b""):
                    record = _record(line)
                    if record is None or not line.endswith(b"\n"):
                        break
                    if file != self.path and end == 0 and record["image"] in images:
                        break  # a break while files were joined has left this one behind
                    images.add(record["image"])
                    count, errors = count + 1, errors + ("error" in record)
                    end += len(line)
                lines.truncate(end)
        return images, count, errors

    def part(self, index: int) -> Path:
        """The file that the process with this index appends to."""
        return self.path.with_name(f"{self.path.name}.part-{index:05d}") if index else self.path

    def finish(self, answers: int) -> None:
        """Put the files of all processes behind one another, and leave nothing else.

        Raises:
            ResumeError: there are fewer than ``answers``.
        """
        if parts := _parts(self.path):
            write_own(self.path, lambda temporary: _join((self.path, *parts), answers, temporary), _is_answers)
        for file in parts:
            delete_own(file, _is_answers)
        delete_own(_mark(self.path), _is_mark)


@contextmanager
def append_records(path: Path) -> Iterator[Callable[[Sequence[Mapping[str, Any]]], None]]:
    """What is yielded appends records to the file; what has been written stays, however the process ends."""
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
    """All answers of a finished file."""
    with open(path, "rb") as lines:
        yield from (record for line in lines if (record := _record(line)) is not None)


def refuse_to_lose(path: Path, *, resume: bool, restart: bool) -> None:
    """Told before anything slow: that answers are there which nobody asked to resume, or to drop.

    Raises:
        ResumeError: so it is.
        FileError: a file there is no file of answers.
    """
    for file in (path, *_parts(path)):
        refuse_foreign(file, _is_answers)
    refuse_foreign(_mark(path), _is_mark)
    if restart:
        return
    if _mark(path).exists():
        if not resume:
            raise ResumeError(
                f"{path} holds unfinished answers; continue with --resume, start over with --restart, or choose another --out"
            )
    elif parts := _parts(path):
        raise ResumeError(
            f"{parts[0]} holds answers, but nothing says of what; drop them with --restart, move them away, or choose another --out"
        )
    elif path.exists() and path.stat().st_size:
        nothing = ", so there is nothing to resume" if resume else ""
        raise ResumeError(
            f"{path} already exists and is complete{nothing}; replace it with --restart, or choose another --out"
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
    """The answer in a line; other programs' lists of images begin with ``image`` too."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("image"), str):
        return None
    label, index = record.get("label", 0), record.get("index")
    answer = (
        (label is None or isinstance(label, str)) and isinstance(index, int) and isinstance(record.get("unknown"), bool)
    )
    return record if answer or record.keys() == {"image", "error"} else None


def _is_answers(path: Path) -> bool:
    """Whether a file begins as answers do, as far as a break let them come."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        line = file.readline(_LONGEST_LINE)
    if _record(line) is not None:
        return True
    return len(line) < _LONGEST_CUT and _is_cut(line)


def _is_cut(line: bytes) -> bool:
    """Whether a break has left this of an answer. A power cut may leave zeros in its place, or in it."""
    text, zero, behind = line.partition(b"\0")
    if not text.startswith(_BEGIN):
        return _BEGIN.startswith(text) and not behind.strip(b"\0")
    if zero and not behind.strip(b"\0") and _record(text) is not None:
        return True
    if line.endswith(b"\n") and not zero:
        return False
    if not (path := _IMAGE.match(text)):
        return True
    rest = text[path.end() :]
    try:
        json.JSONDecoder().raw_decode(text.decode(errors="replace"))
    except (ValueError, RecursionError):  # it is not whole, whatever follows
        return any(rest.startswith(key) or key.startswith(rest) for key in _SECOND)
    return False


def _is_mark(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            named = json.loads(file.read(_LONGEST_MARK))
    except (ValueError, RecursionError):
        return False
    return isinstance(named, dict) and "list of images" in named and all(isinstance(v, str) for v in named.values())


def _mark(path: Path) -> Path:
    """What the answers are of; there until they are finished."""
    return path.with_name(f"{path.name}.unfinished")


def _parts(path: Path) -> list[Path]:
    """Other processes' files, in the order of the processes."""
    pattern = re.compile(re.escape(path.name) + r"\.part-\d{5}")
    if not path.parent.is_dir():
        return []
    return sorted(path.with_name(entry.name) for entry in os.scandir(path.parent) if pattern.fullmatch(entry.name))
