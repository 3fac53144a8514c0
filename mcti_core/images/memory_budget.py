"""One memory budget for all images that are read at the same time, in any thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..files.limits import IMAGE_MEMORY

__all__ = ["MemoryBudget", "image_budget", "memory_of"]

_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Bytes per pixel of an image in Pillow; 4 in all other modes."""
_DECODER = {"WEBP": 12, "AVIF": 16, "HEIF": 16}
"""Bytes per pixel that a decoder allocates beside Pillow's image."""
_UNTRUSTED_FORMATS = ("AVIF", "HEIF")
"""Formats whose images may be larger than they claim: 2 KB that claim 16 x 16 pixels decompress to 268 million, and are then scaled down."""
_COEFFICIENTS = 2
"""Bytes per pixel and channel of the buffer for a JPEG of several scans."""
_OVERHEAD_BYTES = 2**24
"""Bytes for strips, partly filled blocks, and tables."""


class MemoryBudget:
    """``total`` bytes shared by threads: a reservation larger than the rest waits until others are released."""

    def __init__(self, total: int):
        self.total = total
        self._used = 0
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, count: int) -> Iterator[None]:
        """Reserve ``count`` bytes, at most the total. Reservations are granted in the order of the requests."""
        with self._turn, self._changed:  # in order, so that small images do not keep a large one waiting forever
            self._changed.wait_for(lambda: self._used + count <= self.total)
            self._used += count
        try:
            yield
        finally:
            with self._changed:
                self._used -= count
                self._changed.notify_all()


image_budget = MemoryBudget(IMAGE_MEMORY)


def memory_of(image: Any, kind: str, factor: int) -> int:
    """Approximate upper limit of the bytes for reading an opened image at 1 / factor of its size."""
    pixels, each = image.width * image.height, _BYTES_PER_PIXEL.get(image.mode, 4)
    smaller = -(-pixels // factor**2)
    held = smaller if kind == "JPEG" else pixels
    count = held * each + pixels * _DECODER.get(kind, 0)
    if kind == "JPEG" and image.info.get("progressive"):
        count += pixels * _COEFFICIENTS * len(image.getbands())
    if kind in ("TIFF", "GIF"):  # a rotated copy, or a copy pasted onto the frame
        count += held * 4
    if kind in _UNTRUSTED_FORMATS:  # two at once, for any claimed size
        count = max(count, image_budget.total // 2 - 2 * _OVERHEAD_BYTES - 3 * smaller)
    floats = 4 * min(image.width, image.height) ** 2 // factor**2  # one channel of the centre square
    return max(count + 3 * smaller, 3 * smaller + 2 * floats) + _OVERHEAD_BYTES
