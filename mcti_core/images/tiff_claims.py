"""Check a TIFF file's claims about its strips and tiles before a reader allocates memory for them."""

from __future__ import annotations

from struct import error as StructError
from struct import unpack
from typing import IO, Any

__all__ = ["jpeg_places", "refuse_tiff_claims"]

_MAX_TAGS, _MAX_VALUES = 4096, 2**18
"""Maximum number of tags per image, and of values per tag except bytes and text: each becomes a number, a fraction, or a strip with its own reader."""
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


def refuse_tiff_claims(file: IO[bytes]) -> None:
    """Check the first image's tags.

    Args:
        file: read from its beginning; its final position is undefined.

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
    if claims[_TILE_WIDTH] * claims[_TILE_HEIGHT] > claims[_WIDTH] * claims[_HEIGHT] + _MAX_TILE_BEYOND:
        raise ValueError(
            f"its tiles of {claims[_TILE_WIDTH]} x {claims[_TILE_HEIGHT]} pixels are larger than the image; save it with smaller ones"
        )


def jpeg_places(image: Any, size: int) -> set[tuple[int, int]]:
    """Offset and length of the JPEGs inside a TIFF file; empty for other compressions.

    Args:
        image: Pillow's reader of a file that passed ``refuse_tiff_claims``.
        size: of the file, in bytes.

    Raises:
        ValueError: empty or overlapping strips or tiles.
    """
    tags = image.tag_v2
    if tags.get(_COMPRESSION) not in _JPEG:
        return set()
    places = {
        place for offsets, counts in (_STRIPS, _TILES) for place in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=True)
    }  # fmt: skip
    if not places or not all(count > 0 for _, count in places) or sum(count for _, count in places) > size:
        raise ValueError("its strips are empty or overlap; save it again as PNG or JPEG")
    return places
