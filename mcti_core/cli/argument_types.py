"""Argument types of the command line. Values out of range or of the wrong kind are refused before any work."""

from __future__ import annotations

import argparse
import errno
import math
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["confidence", "count", "file_path", "folder_path", "gamma", "number", "path", "path_text", "seed", "whole"]

_MAX_NUMBER = 10**6
_FILE_SUFFIXES = (
    ".safetensors", ".pt", ".bin", ".json", ".jsonl", ".csv", ".txt", ".png", ".jpg", ".jpeg", ".webp", ".html",
)  # fmt: skip
"""Suffixes of names that can only be files."""


def path_text(text: str) -> str:
    """A path as written, with ``~`` expanded also where a shell does not expand it, as after ``--output-dir=``."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"must be a path, got {text!r}")
    if text.startswith("~") and not os.path.lexists(Path(text).parts[0]):
        given, text = text, os.path.expanduser(text)
        if text == given:
            raise argparse.ArgumentTypeError(
                f"names the home folder of an unknown user: {given!r}; write ./{given} for a folder of that name"
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
    """Return the type of a file to write.

    Args:
        example: file name that the message suggests if a folder is given.
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
    """Return the type of a whole number in this range."""

    def kind(text: str) -> int:
        digits = text.strip()
        if digits.isdecimal() and len(digits) < 20 and least <= int(digits) <= most:
            return int(digits)
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, got {text[:40]!r}")

    return kind


count = whole(1)
seed = whole(0, 2**63 - 1)


def number(above: float | None = None, *, least: float | None = None) -> Callable[[str], float]:
    """Return the type of a finite number: larger than ``above``, or at least ``least``."""
    bound = "" if above is None else f" above {above:g}"
    bound = bound if least is None else f" of {least:g} or more"

    def kind(text: str) -> float:
        value = _number(text)
        if math.isfinite(value) and (above is None or value > above) and (least is None or value >= least):
            return value
        raise argparse.ArgumentTypeError(f"must be a finite number{bound}, got {text[:40]!r}")

    return kind


def gamma(text: str) -> float | str:
    """The weight of the classification term: a number, or ``auto``."""
    if text == "auto":
        return text
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of 0 or more, or auto, got {text[:40]!r}")
    return value


def confidence(text: str) -> float:
    """A number from 0 to 1. Confidences are printed in percent, so the message for a percentage says which number to write."""
    given = text.strip()
    value = _number(given.removesuffix("%"))
    if not given.endswith("%") and 0 <= value <= 1:
        return value
    meant = f"; for {value:g} % write {value / 100:g}" if 0 <= value <= 100 else ""
    raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text[:40]!r}{meant}")


def _number(text: str) -> float:
    """The number in a text; NaN if there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
