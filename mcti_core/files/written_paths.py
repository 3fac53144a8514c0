"""Read folder paths that people have written into a file: perhaps in quotes, copied from elsewhere, or in another encoding."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

__all__ = ["decoded_lines", "folder_of"]

_QUOTES = "\"'`“”„‟‘’‚«»<>"
_INVISIBLE = "".join(map(chr, (0xFEFF, 0x200B, 0x200E, 0x200F, 0x202A, 0x202B, 0x202C, 0x2060, 0xA0, 0x20, 0x09)))
"""Invisible characters that programs add to copied paths, such as U+202A from Windows."""
_ANSI = "mbcs" if os.name == "nt" else "cp1252"
"""Encoding of Windows programs that do not write UTF-8."""


def decoded_lines(content: bytes) -> list[str]:
    """Decode UTF-8, or UTF-16 as Windows writes it, each with or without byte order mark; invalid bytes are kept, as in file names."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace").splitlines()
    for place, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # the other byte of an ASCII letter
        if len(content) > 1 and content[place] == 0 != content[1 - place]:
            return content.decode(encoding, "replace").splitlines()
    return content.decode("utf-8-sig", "surrogateescape").splitlines()


def folder_of(line: str) -> Path | None:
    """The folder whose full path is in a line, by the first interpretation that exists; None if none exists."""
    for text in _readings(line):
        try:
            path = Path(text).expanduser()
            if path.is_absolute() and path.is_dir():
                return path
        except (OSError, ValueError, RuntimeError):  # an invalid name, or an unknown user
            continue
    return None


def _readings(line: str) -> Iterator[str]:
    line = line.strip(_INVISIBLE)
    if len(line) > 1 and line[0] in _QUOTES and line[-1] in _QUOTES:
        line = line[1:-1].strip(_INVISIBLE)
    yield line
    yield os.path.expandvars(line)
    if line.lower().startswith("file://"):
        address = line[len("file://") :].removeprefix("localhost").encode("utf-8", "surrogateescape")
        path = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), address)
        yield os.fsdecode(path[1:] if path[2:3] == b":" else path)
    if os.sep == "/":
        yield line.replace("\\ ", " ")  # a terminal's escaped space
    ansi = os.fsencode(line) if os.name == "nt" else line.encode("utf-8", "surrogateescape")
    for text in (line, ansi.decode(_ANSI, "replace")):
        yield unicodedata.normalize("NFC", text)
        yield unicodedata.normalize("NFD", text)
