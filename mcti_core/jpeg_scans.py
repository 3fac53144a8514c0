"""How often a JPEG file passes over its pixels: each pass costs a reader time at full size, and few bytes of the file."""

from __future__ import annotations

import re
from typing import IO

__all__ = ["count_scans"]

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_ALONE = (0x01, 0xD8)
"""Markers that no length follows."""
_SCAN, _END = 0xDA, 0xD9
_BLOCK = 2**20
_MAX_SEGMENTS = 4096
"""Of one image; photos have some dozen."""


def count_scans(file: IO[bytes], most: int) -> int:
    """Scans of the first image in a JPEG file, counted up to one more than ``most``.

    A file of very many segments counts as one of too many scans. Phones append other images and films, which do not count.

    Args:
        file: is read from its beginning on, a block at a time, and left anywhere.
    """
    file.seek(0)
    scans = segments = start = 0
    resume, rest = 2, b""
    while block := file.read(_BLOCK):
        data = rest + block  # begins at ``start`` of the file
        for found in _MARKER.finditer(data, 0, len(data) - 2):  # the two bytes of a length follow each of them
            if (place := start + found.start()) < resume:
                continue
            marker, behind = found.group()[1], found.end()
            if marker == _END:
                return scans
            if marker in _ALONE:
                continue
            scans, segments = scans + (marker == _SCAN), segments + 1
            if scans > most or segments > _MAX_SEGMENTS:
                return most + 1
            resume = place + 2 + max(2, int.from_bytes(data[behind : behind + 2], "big"))
        rest = data[-3:]
        start += len(data) - len(rest)
    return scans
