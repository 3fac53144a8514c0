"""Check what TIFF and JPEG files claim about their pixels, before a reader allocates memory or time for it."""

from __future__ import annotations

import re
import sys
from struct import error as StructError
from struct import unpack
from typing import IO, Any

__all__ = ["count_scans", "jpeg_places", "refuse_tiff_claims"]

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_BARE_MARKERS = (0x01, 0xD8)
"""JPEG markers without a length."""
_SCAN, _END = 0xDA, 0xD9
_BLOCK = 2**20
_MAX_SEGMENTS = 4096
"""Maximum per JPEG; photos have a few dozen."""
_MAX_TAGS, _MAX_VALUES = 4096, 2**18
"""Maximum number of tags per TIFF image, and of values per tag except bytes and text: each may become a strip with its own
reader."""
_MAX_TILE_BEYOND = 2**23
"""Number of pixels by which a tile may exceed its image; a tile is decompressed as a whole."""
_AS_BYTES = (1, 2, 6, 7)
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_COMPRESSION, _STRIPS, _TILES = 259, (273, 279), (324, 325)
"""Tags of the compression, and of the offsets and byte counts of strips and of tiles."""
_JPEG = (6, 7)
"""Compressions that store each strip or tile as a JPEG."""
_INTEGERS = {3: 2, 4: 4, 16: 8}
"""Type -> its size in bytes."""


def count_scans(file: IO[bytes], most: int, begin: int = 0, length: int = sys.maxsize) -> int:
    """Number of scans of the first image in a JPEG, up to one more than ``most``: each is a pass over all pixels.

    A JPEG with too many segments counts as one with too many scans. Images and videos that phones append do not count.
    The JPEG is at these bytes of the file, whose own position is undefined afterwards.
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


def refuse_tiff_claims(file: IO[bytes]) -> None:
    """Check the first image's tags. The file's final position is undefined.

    Raises:
        ValueError: not a TIFF file, or one with more tags or values, or larger tiles, than images have, or with two
            positions for one strip.
    """
    file.seek(0)
    begin = file.read(16)
    order = "<" if begin[:2] == b"II" else ">"
    big = begin[2:4] in (b"+\0", b"\0+")
    form, inline = (f"{order}HHQ", 8) if big else (f"{order}HHL", 4)
    claims = dict.fromkeys((_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT), 0)
    once = {_COMPRESSION, *_STRIPS, *_TILES}  # the reader that decodes the image looks these up again
    try:
        file.seek(unpack(f"{order}Q", begin[8:16])[0] if big else unpack(f"{order}L", begin[4:8])[0])
        (count,) = unpack(f"{order}Q", file.read(8)) if big else unpack(f"{order}H", file.read(2))
        if count > _MAX_TAGS:
            raise ValueError(f"it has {count:,} tags; at most {_MAX_TAGS:,} are read")
        for _ in range(count):
            entry = file.read(4 + 2 * inline)
            tag, kind, values = unpack(form, entry[: 4 + inline])
            if values > _MAX_VALUES and kind not in _AS_BYTES:
                raise ValueError(f"tag {tag} has {values:,} values; at most {_MAX_VALUES:,} are read")
            if tag in (_COMPRESSION, *_STRIPS, *_TILES):
                if tag not in once:
                    raise ValueError(f"tag {tag} occurs twice; save it again as PNG or TIFF")
                once.remove(tag)
            if tag in claims:
                size = _INTEGERS.get(kind, inline + 1)
                if size > inline or values != 1:
                    raise ValueError(f"tag {tag} is not an integer; save it again as PNG or TIFF")
                value = int.from_bytes(entry[4 + inline :][:size], "little" if order == "<" else "big")
                # Readers differ in which of two equal tags they use.
                least = tag in (_WIDTH, _HEIGHT) and claims[tag] > 0
                claims[tag] = min(claims[tag], value) if least else max(claims[tag], value)
    except (StructError, OverflowError) as error:
        raise ValueError("its tags are truncated") from error
    width, height, tile_width, tile_height = claims.values()
    if tile_width * tile_height > width * height + _MAX_TILE_BEYOND:
        raise ValueError(f"its tiles of {tile_width} x {tile_height} pixels are larger than the image; save it again")


def jpeg_places(image: Any, size: int) -> set[tuple[int, int]]:
    """Offset and length of the JPEGs inside a TIFF file of ``size`` bytes; empty for other compressions.

    Args:
        image: Pillow's reader of a file that passed ``refuse_tiff_claims``.

    Raises:
        ValueError: empty or overlapping strips or tiles.
    """
    tags = image.tag_v2
    if tags.get(_COMPRESSION) not in _JPEG:
        return set()
    pairs = (zip(tags.get(starts, ()), tags.get(lengths, ()), strict=True) for starts, lengths in (_STRIPS, _TILES))
    places = {place for pair in pairs for place in pair}
    if not places or not all(length > 0 for _, length in places) or sum(length for _, length in places) > size:
        raise ValueError("its strips are empty or overlap; save it again as PNG or JPEG")
    return places
