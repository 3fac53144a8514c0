"""Kinds of arguments at the command line. What is out of range, or of the wrong kind, is refused before any work."""

from __future__ import annotations

import argparse
import errno
import math
import os
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "add_overwriting",
    "confidence",
    "count",
    "file_path",
    "folder_path",
    "gamma",
    "number",
    "path",
    "path_text",
    "seed",
    "whole",
]

_MAX_NUMBER = 10**6
_FILE_SUFFIXES = (
    ".safetensors",
    ".pt",
    ".bin",
    ".json",
    ".jsonl",
    ".csv",
    ".txt",
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".html",
)
"""With these a name is a file's."""


def path_text(text: str) -> str:
    """A path as written, ``~`` expanded also where a shell leaves it, as after ``--output-dir=``."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"must be a path, got {text!r}")
    if text.startswith("~") and not os.path.lexists(Path(text).parts[0]):
        given, text = text, os.path.expanduser(text)
        if text == given:
            raise argparse.ArgumentTypeError(
                f"names the home folder of a user who is not there: {given!r}; write ./{given} for a folder of that name"
            )
    try:
        os.lstat(text)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise argparse.ArgumentTypeError(f"must be a path, got one that is too long: {text[:40]!r}...") from error
    return text


def path(text: str) -> Path:
    return Path(path_text(text))


def file_path(example: str) -> Callable[[str], Path]:
    """A file to write.

    Args:
        example: a name for it, which the message proposes where a folder is given.
    """

    def kind(text: str) -> Path:
        given = path(text)
        if os.path.isdir(given) or text.endswith(("/", os.sep)):
            raise argparse.ArgumentTypeError(f"{text!r:.200} is a folder; name a file, as in {str(given / example)!r}")
        return given

    return kind


def folder_path(text: str) -> Path:
    """A folder to write to."""
    given = path(text)
    if os.path.isfile(given):
        raise argparse.ArgumentTypeError(f"{text!r} is a file; name a folder")
    if given.suffix.lower() in _FILE_SUFFIXES and not os.path.isdir(given):
        raise argparse.ArgumentTypeError(
            f"{text!r} is a file's name; name a folder, as in {str(given.with_suffix(''))!r}"
        )
    return given


def whole(least: int, most: int = _MAX_NUMBER) -> Callable[[str], int]:
    """A whole number in this range."""

    def kind(text: str) -> int:
        digits = text.strip()
        if digits.isdecimal() and len(digits) < 20 and least <= int(digits) <= most:
            return int(digits)
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, got {text[:40]!r}")

    return kind


count = whole(1)
seed = whole(0, 2**63 - 1)


def number(above: float | None = None, *, least: float | None = None) -> Callable[[str], float]:
    """A finite number, above one bound or not below another where they are given."""
    bound = "" if above is None else f" above {above:g}"
    bound = bound if least is None else f" of {least:g} or more"

    def kind(text: str) -> float:
        value = _number(text)
        if math.isfinite(value) and (above is None or value > above) and (least is None or value >= least):
            return value
        raise argparse.ArgumentTypeError(f"must be a finite number{bound}, got {text[:40]!r}")

    return kind


def gamma(text: str) -> float | str:
    """The weight of the classification term."""
    if text == "auto":
        return text
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of 0 or more, or auto, got {text[:40]!r}")
    return value


def confidence(text: str) -> float:
    """From 0 to 1. Confidences are printed in percent, so a percentage gets the number that is meant."""
    given = text.strip()
    value = _number(given.removesuffix("%"))
    if not given.endswith("%") and 0 <= value <= 1:
        return value
    meant = f"; for {value:g} % write {value / 100:g}" if 0 <= value <= 100 else ""
    raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text[:40]!r}{meant}")


def _number(text: str) -> float:
    """NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def add_overwriting(parser: argparse.ArgumentParser) -> None:
    """Add ``--overwrite``, of every command that writes results."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the results of an earlier run; without it they are never replaced",
    )
