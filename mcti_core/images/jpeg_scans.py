"""How often a JPEG passes over its pixels: each pass costs a reader time at full size, and few bytes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import IO

__all__ = ["count_most_scans", "count_scans"]

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_ALONE = (0x01, 0xD8)
"""Markers that no length follows."""
_SCAN, _END = 0xDA, 0xD9
_BLOCK = 2**20
_MAX_SEGMENTS = 4096
"""Of one image; photos have some dozen."""


def count_most_scans(file: IO[bytes], places: Iterable[tuple[int, int]], most: int) -> int:
    """Scans of that JPEG which has most of them, counted up to one more than ``most``.

    Args:
        places: where in the file each JPEG begins, and its bytes.
    """
    highest = 0
    for begin, length in places:
        highest = max(highest, count_scans(file, most, begin, length))
        if highest > most:
            break
    return highest


def count_scans(file: IO[bytes], most: int, begin: int = 0, length: int = sys.maxsize) -> int:
    """Scans of the first image in a JPEG, counted up to one more than ``most``.

    One of very many segments counts as one of too many scans. Phones append other images and films, which do not count.

    Args:
        file: is read a block at a time, and left anywhere.
        begin, length: the JPEG's place in the file, in bytes.
    """
    file.seek(begin)
    scans = segments = start = 0
    resume, rest = 2, b""
    while block := file.read(min(_BLOCK, length - start - len(rest))):
        data = rest + block  # begins at ``start`` of the JPEG
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
