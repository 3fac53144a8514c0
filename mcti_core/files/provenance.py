"""What marks a picture, a table or a report as written by this program, so that the next run may write it anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError
from .ownership import write_own

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["GENERATOR", "is_marked", "write_json", "write_png", "write_text"]

_PROGRAM = "MC-TI"
GENERATOR = f'<meta name="generator" content="{_PROGRAM}">'
"""To stand in the head of a page."""
_KEY = "written_by"
_MARKS = (f"Software\0{_PROGRAM}".encode(), f'"{_KEY}": "{_PROGRAM}"'.encode(), GENERATOR.encode())
_BEGIN = 1024


def is_marked(path: Path) -> bool:
    """Whether a file begins as those that are written here do."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        begin = file.read(_BEGIN)
    return any(mark in begin for mark in _MARKS)


def write_png(image: Image, path: Path) -> Path:
    """Raises: FileError: a file of others is there, or the file cannot be written."""
    from PIL.PngImagePlugin import PngInfo

    mark = PngInfo()
    mark.add_text("Software", _PROGRAM)
    return _write(path, lambda file: image.save(file, "PNG", pnginfo=mark))


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Raises: FileError: a file of others is there, or the file cannot be written. ValueError: a number that JSON has no word for."""
    return write_text(json.dumps({_KEY: _PROGRAM, **content}, indent=1, allow_nan=False) + "\n", path)


def write_text(text: str, path: Path) -> Path:
    """A text that holds a mark. Raises: FileError: a file of others is there, or the file cannot be written."""
    return _write(path, lambda file: file.write_text(text, encoding="utf-8"))


def _write(path: Path, write: Callable[[Path], object]) -> Path:
    try:
        return write_own(path, write, is_marked)
    except OSError as error:
        raise FileError(
            f"{path} cannot be written ({error.strerror or error}); make room, or choose another place"
        ) from error
