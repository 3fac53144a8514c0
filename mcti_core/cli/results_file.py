"""Write the answers to very many images to one file, resumably; the file is the same for any number of processes.

Batch composition is fixed, because batching changes the last digits of a model's output. A single process writes its answers
directly to the file. Several processes write to parts beside it, in which each line begins with the image's number; the parts
are joined at the end. Incomplete batches are answered again.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..errors import ResumeError
from ..files.ownership import delete_own, refuse_foreign, write_own
from ..training.resume import describe_differences
from .json_line import json_line

__all__ = ["Part", "ResultsFile", "refuse_to_lose"]

_BEGIN = b'{"image": "'
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_RECORD = re.compile(
    rb'(?:\d+\t)?\{"image": %s, "(?:error": "|label": (?:null|%s), "unknown": (?:true|false), "index": )'
    % (_TEXT, _TEXT)
)
"""How every answer begins; other programs' lists of images begin with ``image`` too."""
_FLUSH = 10.0
"""Seconds of answers that a power cut may cost."""


@dataclass(frozen=True)
class Piece:
    """Where the answers of one batch are: these bytes of this file."""

    file: Path
    start: int
    end: int
    errors: int
    """Images that could not be read."""


@dataclass(frozen=True)
class ResultsFile:
    """One run's answers, as far as they are there.

    Args:
        path: the file.
        images: N.
        batch: images that are answered together.
        identity: what the answers are of, ``list of images`` among it; those of two runs that differ here are never mixed.
    """

    path: Path
    images: int
    batch: int
    identity: Mapping[str, str]

    @property
    def batches(self) -> int:
        return -(-self.images // self.batch)

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
            then = json.loads(_mark(self.path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
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

    def found(self) -> dict[int, Piece]:
        """Batch number -> its answers, of every batch that is whole."""
        pieces: dict[int, Piece] = {}
        for file in (self.path, *_parts(self.path)):
            if file.exists():
                for number, piece in self._pieces(file):
                    pieces.setdefault(number, piece)
        return pieces

    def part(self, run: int, index: int) -> Part:
        """A place for one process to write to, in the run of this number (see ``next_run``)."""
        return Part(self.path.with_name(f"{self.path.name}.part-{run:04d}-{index:05d}"), self.batch, numbered=True)

    def next_run(self) -> int:
        """No part has this number yet."""
        return 1 + max((int(file.name.rsplit("-", 2)[1]) for file in _parts(self.path)), default=0)

    def itself(self, found: Mapping[int, Piece]) -> Part:
        """The file itself, after its last whole batch: for a process that is alone and has found no parts."""
        end = max((piece.end for piece in found.values()), default=0)
        if self.path.exists():
            os.truncate(self.path, end)
        return Part(self.path, self.batch, numbered=False)

    def has_parts(self) -> bool:
        return bool(_parts(self.path))

    def finish(self) -> None:
        """Make the parts one file, in the order of the images, and leave nothing else behind.

        Raises:
            ResumeError: answers are missing.
        """
        pieces = self.found()
        missing = self.batches - len(pieces)
        if missing:
            raise ResumeError(
                f"{missing} of {self.batches} batches have no answers yet; run the same command with --resume to continue"
            )
        if any(piece.file != self.path for piece in pieces.values()):
            write_own(self.path, lambda temporary: self._join(pieces, temporary), _is_answers)
        for file in _parts(self.path):
            delete_own(file, _is_answers)
        delete_own(_mark(self.path), _is_mark)

    def _join(self, pieces: Mapping[int, Piece], target: Path) -> None:
        with open(target, "wb") as out:
            for number in range(self.batches):
                piece = pieces[number]
                with open(piece.file, "rb") as file:
                    file.seek(piece.start)
                    lines = file.read(piece.end - piece.start)
                if piece.file != self.path:
                    lines = b"".join(line.partition(b"\t")[2] for line in lines.splitlines(keepends=True))
                out.write(lines)

    def _pieces(self, file: Path) -> Iterator[tuple[int, Piece]]:
        """The whole batches of one file, up to the first thing in it that is none."""
        start = end = errors = 0
        first, count = 0, 0  # of the batch that is being read
        with open(file, "rb") as lines:
            for row, line in enumerate(lines):
                place, text = (row, line) if file == self.path else _numbered(line)
                first = place if count == 0 else first
                whole = text.startswith(b"{") and text.endswith(b"}\n") and b"\0" not in text
                if not whole or first % self.batch or place != first + count or place >= self.images:
                    return
                end, count, errors = end + len(line), count + 1, errors + (b'"error": ' in text)
                if count == self.batch or place == self.images - 1:
                    yield first // self.batch, Piece(file, start, end, errors)
                    start, count, errors = end, 0, 0


class Part:
    """A file that answers are appended to; what has been written stays, however the process ends.

    Args:
        path: the file.
        batch: images in a whole batch.
        numbered: begin each line with the image's number.
    """

    def __init__(self, path: Path, batch: int, *, numbered: bool):
        self.path, self.batch, self.numbered = path, batch, numbered
        self._file: IO[bytes] | None = None
        self._flushed = time.monotonic()

    def __enter__(self) -> Part:
        self._file = open(self.path, "ab")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._file is not None
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def write(self, number: int, records: Sequence[Mapping[str, Any]]) -> None:
        """The records of one batch."""
        assert self._file is not None
        places = range(number * self.batch, number * self.batch + len(records))
        lines = [f"{json_line(record)}\n".encode() for record in records]
        if self.numbered:
            lines = [b"%d\t%s" % (place, line) for place, line in zip(places, lines, strict=True)]
        self._file.write(b"".join(lines))
        self._file.flush()
        if time.monotonic() - self._flushed > _FLUSH:
            os.fsync(self._file.fileno())
            self._flushed = time.monotonic()


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
    elif path.exists() and path.stat().st_size:
        nothing = ", so there is nothing to resume" if resume else ""
        raise ResumeError(
            f"{path} already exists and is complete{nothing}; replace it with --restart, or choose another --out"
        )


def _is_answers(path: Path) -> bool:
    """Whether a file begins as answers do, as far as a break let them come. A power cut may leave nothing, or zeros."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        content = file.read(2**16)
    whole = len(content) < 2**16
    line, ended, _ = content.strip(b"\0").partition(b"\n")
    if _RECORD.match(line):
        return True
    record = re.sub(rb"^\d+(\t|$)" if ".part-" in path.name else rb"^\d+\t", b"", line)
    cut = whole and not ended and not record.endswith(b"}")
    return cut and (record.startswith(_BEGIN) or _BEGIN.startswith(record))


def _is_mark(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            named = json.loads(file.read(2**20))
    except (ValueError, RecursionError):
        return False
    return isinstance(named, dict) and "list of images" in named and all(isinstance(v, str) for v in named.values())


def _mark(path: Path) -> Path:
    """What the answers are of; there until they are finished."""
    return path.with_name(f"{path.name}.unfinished")


def _parts(path: Path) -> list[Path]:
    pattern = re.compile(re.escape(path.name) + r"\.part-\d{4,}-\d{5,}")
    if not path.parent.is_dir():
        return []
    return sorted(path.with_name(entry.name) for entry in os.scandir(path.parent) if pattern.fullmatch(entry.name))


def _numbered(line: bytes) -> tuple[int, bytes]:
    """A line of a part -> the image's number and its record; -1 where there is none."""
    number, _, text = line.partition(b"\t")
    return (int(number) if number.isdigit() and len(number) < 20 else -1), text
