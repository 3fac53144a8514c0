"""Limit the number and the size of reads of Pillow's readers.

Readers loop over everything in a file, such as a hundred million empty blocks, and store what they do not know.
"""

from __future__ import annotations

import os
import weakref
from importlib import import_module
from typing import IO, Any

from ..files.kinds import READ_KINDS
from ..files.limits import MAX_IMAGE_READS, MAX_METADATA_BYTES
from .claims import refuse_tiff_claims

__all__ = ["MeteredFile", "bytes_to_open", "open_metered"]

_WHOLE_FILE_FORMATS = ("WEBP", "AVIF", "HEIF", "TIFF")
"""Formats whose readers may read the whole file when they open it; for TIFF, its tags."""
_MAX_READS_TO_OPEN = 2_500
_HEADERS = 2**16
"""Allowance for bytes that are read more than once."""
_MAX_DECODED_IN_PYTHON = 20_000_000
"""Maximum number of pixels of a BMP with run lengths, which Pillow decodes one by one in Python."""


class MeteredFile:
    """A binary file, read from its beginning; reads beyond the limits set by ``allow`` raise a ``ValueError``."""

    def __init__(self, file: IO[bytes]):
        file.seek(0)
        self._file = file
        self._calls = self._bytes = 0
        self.taken = 0
        """Number of bytes read since ``allow``."""

    def allow(self, count: int, calls: int) -> None:
        """Allow ``calls`` reads of ``count`` bytes in total from now on."""
        self._bytes, self._calls, self.taken = count, calls, 0

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._calls -= 1
        self.taken += len(content)
        if self._calls < 0 or self.taken > self._bytes:
            raise ValueError("its metadata or its blocks are too many or too large; save it again as PNG or JPEG")
        return content

    def __getattr__(self, name: str) -> Any:  # seek, tell, fileno: they read no content
        return getattr(self._file, name)


def bytes_to_open(file: IO[bytes], kind: str) -> int:
    """Number of bytes that the reader of this format may read before decoding."""
    size = os.fstat(file.fileno()).st_size
    return size if kind in _WHOLE_FILE_FORMATS else min(size, MAX_METADATA_BYTES)


def open_metered(file: IO[bytes], kind: str) -> tuple[Any, int]:
    """Pillow's reader for this format, and the number of bytes that it read.

    Does not use ``Image.open``, whose own limit is lower, and whose warnings affect the whole process.

    Raises:
        ValueError: more blocks, tags or metadata than images have. The reader's own exceptions pass through.
    """
    if kind == "TIFF":
        refuse_tiff_claims(file)
    metered = MeteredFile(file)
    metered.allow(bytes_to_open(file, kind) + _HEADERS, _MAX_READS_TO_OPEN)
    module, name = READ_KINDS[kind]
    image = getattr(import_module(module), name)(metered)
    taken = metered.taken
    if image.tile and image.tile[0][0] == "bmp_rle" and image.width * image.height > _MAX_DECODED_IN_PYTHON:
        raise ValueError("a BMP with run lengths of more than 20 million pixels; save it as PNG")
    metered.allow(2 * os.fstat(file.fileno()).st_size + MAX_METADATA_BYTES, MAX_IMAGE_READS)
    itself = weakref.ref(image)  # a reference cycle would free its memory late

    def load_end() -> Any:  # called after the pixels are decoded; the data after them is metadata again
        metered.allow(MAX_METADATA_BYTES, _MAX_READS_TO_OPEN)
        reader: Any = itself()
        return type(reader).load_end(reader)

    image.load_end = load_end
    return image, taken
