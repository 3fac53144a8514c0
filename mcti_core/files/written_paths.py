"""A folder's path as people write it into a file: in quotes, copied from elsewhere, in another encoding."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

__all__ = ["decoded_lines", "folder_of"]

_QUOTES = "\"'`“”„‟‘’‚«»<>"
_UNSEEN = "".join(map(chr, (0xFEFF, 0x200B, 0x200E, 0x200F, 0x202A, 0x202B, 0x202C, 0x2060, 0xA0, 0x20, 0x09)))
"""What programs put around a path that is copied from them, and nobody sees; Windows' own U+202A."""
_ANSI = "mbcs" if os.name == "nt" else "cp1252"
"""In which Windows programs write where they do not write UTF-8."""


def decoded_lines(content: bytes) -> list[str]:
    """UTF-8, or UTF-16 as Windows writes it, each with or without its mark; other bytes stand for themselves, as in file names."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace").splitlines()
    for place, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # the other byte of an ASCII letter
        if len(content) > 1 and content[place] == 0 != content[1 - place]:
            return content.decode(encoding, "replace").splitlines()
    return content.decode("utf-8-sig", "surrogateescape").splitlines()


def folder_of(line: str) -> Path | None:
    """The folder whose whole path stands in a line, in the first reading in which there is one; None where there is none."""
    for text in _readings(line):
        try:
            path = Path(text).expanduser()
            if path.is_absolute() and path.is_dir():
                return path
        except (OSError, ValueError, RuntimeError):  # a name that no system takes, or a user who is not here
            continue
    return None


def _readings(line: str) -> Iterator[str]:
    line = line.strip(_UNSEEN)
    if len(line) > 1 and line[0] in _QUOTES and line[-1] in _QUOTES:
        line = line[1:-1].strip(_UNSEEN)
    yield line
    yield os.path.expandvars(line)
    if line.lower().startswith("file://"):
        address = line[len("file://") :].removeprefix("localhost").encode("utf-8", "surrogateescape")
        path = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), address)
        yield os.fsdecode(path[1:] if path[2:3] == b":" else path)
    if os.sep == "/":
        yield line.replace("\\ ", " ")  # as terminals write a space
    ansi = os.fsencode(line) if os.name == "nt" else line.encode("utf-8", "surrogateescape")
    for text in (line, ansi.decode(_ANSI, "replace")):
        yield unicodedata.normalize("NFC", text)
        yield unicodedata.normalize("NFD", text)
