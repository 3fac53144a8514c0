"""What marks a picture, a table or a report as written by this program, so that the next run may write it anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .own_files import write_own

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
    """Raises: FileError: a file of others is there."""
    from PIL.PngImagePlugin import PngInfo

    mark = PngInfo()
    mark.add_text("Software", _PROGRAM)
    return write_own(path, lambda file: image.save(file, "PNG", pnginfo=mark), is_marked)


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Raises: FileError: a file of others is there."""
    return write_text(json.dumps({_KEY: _PROGRAM, **content}, indent=1) + "\n", path)


def write_text(text: str, path: Path) -> Path:
    """A text that holds a mark. Raises: FileError: a file of others is there."""
    return write_own(path, lambda file: file.write_text(text, encoding="utf-8"), is_marked)
