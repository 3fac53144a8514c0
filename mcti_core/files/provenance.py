"""Mark images, tables and reports as written by this program, so that the next run may replace them; and record versions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError
from .regular import read_start
from .writing import check_writable, refuse_foreign, refuse_to_replace, write_own

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "GENERATOR", "TEXT_MARK", "check_outputs", "is_marked", "library_versions", "write_json", "write_png",
    "write_text",
]  # fmt: skip

_PROGRAM = "MC-TI"
GENERATOR = f'<meta name="generator" content="{_PROGRAM}">'
"""Mark for the head of an HTML page."""
_KEY = "written_by"
TEXT_MARK = f"# {_KEY}: {_PROGRAM}"
"""Mark for the first line of a TOML file, or of the header of a Markdown file."""
_PNG, _TEXT = b"\x89PNG\r\n\x1a\n", f"Software\0{_PROGRAM}".encode()
_MARKS = (
    rb'\{\s*"%s": "%s"[,\s}]' % (_KEY.encode(), _PROGRAM.encode()),
    rb"(?:---\r?\n)?%s\b" % re.escape(TEXT_MARK.encode()),
    rb"<!doctype html>\s*<html[^>]*>\s*<head>\s*(?:<meta [^>]*>\s*)*?" + re.escape(GENERATOR.encode()),
)
"""First bytes of tables and reports."""
_HEAD_BYTES = 1024


def library_versions() -> dict[str, str]:
    """Name -> version of the installed libraries that a training depends on."""
    found = {}
    for name in ("mcti", "torch", "transformers", "diffusers", "safetensors"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def is_marked(path: Path) -> bool:
    """Whether a file has this program's mark: in the first key or line, the head of the page, or a text before the pixels."""
    try:
        begin = read_start(path, _HEAD_BYTES)
    except OSError:  # not this program's file to replace
        return False
    return (b"tEXt", _TEXT) in _chunks(begin) or any(re.match(mark, begin) for mark in _MARKS)


def check_outputs(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Check that marked files in one folder can be written.

    Raises:
        FileError: a foreign file is there, the folder cannot be written to, or, without ``overwrite``, an earlier result is there.
    """
    for path in paths:
        refuse_foreign(path, is_marked)
    refuse_to_replace(paths, overwrite=overwrite)
    check_writable(paths[0].parent, [path.name for path in paths])


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of a PNG's first chunks."""
    at = len(_PNG) if png.startswith(_PNG) else len(png)
    while at < len(png) and png[at + 4 : at + 8] != b"IDAT":
        length = int.from_bytes(png[at : at + 4], "big")
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += length + 12


def write_png(image: Image, path: Path) -> Path:
    """Raises: FileError: a foreign file is there, or the file cannot be written."""
    from PIL.PngImagePlugin import PngInfo

    mark = PngInfo()
    mark.add_text("Software", _PROGRAM)
    return _write(path, lambda file: image.save(file, "PNG", pnginfo=mark))


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Raises: FileError: a foreign file is there, or the file cannot be written. ValueError: a number that JSON cannot express."""
    return write_text(json.dumps({_KEY: _PROGRAM, **content}, indent=1, allow_nan=False) + "\n", path)


def write_text(text: str, path: Path) -> Path:
    """Write a text that contains a mark. Raises: FileError: a foreign file is there, or the file cannot be written."""
    return _write(path, lambda file: file.write_text(text, encoding="utf-8"))


def _write(path: Path, write: Callable[[Path], object]) -> Path:
    try:
        return write_own(path, write, is_marked)
    except OSError as error:
        raise FileError(f"{path} cannot be written ({error.strerror or error}); choose another place") from error
