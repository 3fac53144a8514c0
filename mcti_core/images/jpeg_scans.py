"""Count a JPEG's passes over its pixels: each costs few bytes in the file, but a full-size pass in the reader."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import IO

__all__ = ["count_most_scans", "count_scans"]

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_BARE_MARKERS = (0x01, 0xD8)
"""Markers without a length."""
_SCAN, _END = 0xDA, 0xD9
_BLOCK = 2**20
_MAX_SEGMENTS = 4096
"""Maximum per image; photos have a few dozen."""


def count_most_scans(file: IO[bytes], places: Iterable[tuple[int, int]], most: int) -> int:
    """Largest number of scans of any of the JPEGs, counted up to one more than ``most``.

    Args:
        places: offset and length of each JPEG in the file.
    """
    highest = 0
    for begin, length in places:
        highest = max(highest, count_scans(file, most, begin, length))
        if highest > most:
            break
    return highest


def count_scans(file: IO[bytes], most: int, begin: int = 0, length: int = sys.maxsize) -> int:
    """Number of scans of the first image in a JPEG, counted up to one more than ``most``.

    A JPEG with too many segments counts as one with too many scans. Images and videos that phones append do not count.

    Args:
        file: read block by block; its final position is undefined.
        begin, length: the JPEG's position in the file, in bytes.
    """
    file.seek(begin)
    scans = segments = start = 0
    resume, rest = 2, b""
    while block := file.read(min(_BLOCK, length - start - len(rest))):
        data = rest + block  # begins at ``start`` of the JPEG
        for found in _MARKER.finditer(data, 0, len(data) - 2):  # a length of two bytes follows each of them
            if (place := start + found.start()) < resume:
                continue
            marker, behind = found.group()[1], found.end()
            if marker == _END:
                return scans
            if marker in _BARE_MARKERS:
                continue
            scans, segments = scans + (marker == _SCAN), segments + 1
            if scans > most or segments > _MAX_SEGMENTS:
                return most + 1
            resume = place + 2 + max(2, int.from_bytes(data[behind : behind + 2], "big"))
        rest = data[-3:]
        start += len(data) - len(rest)
    return scans
