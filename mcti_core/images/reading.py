"""Read untrusted image files, with limits on formats, sizes and memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import ExamplesError
from ..files.kinds import READ_KINDS, kind_of, reader_hint, webp_size
from ..files.limits import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE, MAX_SCANNED_PIXELS, MAX_SCANS
from ..files.regular import open_regular
from .claims import count_scans, jpeg_places
from .limited_readers import bytes_to_open, open_metered
from .memory_budget import image_budget, memory_of

__all__ = [
    "UnreadableError", "image_size", "load_image", "load_mask", "load_square", "load_squares", "on_white",
    "one_error", "open_image", "to_size", "to_square",
]  # fmt: skip

_MAX_FULL_SIZE_PIXELS = 50_000_000
"""Number of pixels above which an image is read at half its width and height."""
_STRIP = 256
"""Maximum number of rows per conversion."""
_STRIP_PIXELS = 2**21
"""Maximum number of pixels per conversion."""
_MAX_LISTED_FILES = 20
"""Maximum number of files that one error lists."""
_ORIENTATION = 0x0112
_UPRIGHT: dict[int, Callable[[Any], Any]] = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: p.transpose(1, 0, 2)[::-1],
}
"""EXIF orientation -> function that rotates (H, W, 3) pixels upright."""
_Pixels = np.ndarray[Any, np.dtype[np.uint8]]
_ToRGB = Callable[[Image.Image, float | None], Image.Image]
"""(rows of an image, its value of white) -> the rows as RGB of eight bits per channel."""


class UnreadableError(ExamplesError):
    """One image file is not usable, for a reason in a few words."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path} cannot be read as an image ({reason}); replace or remove it")
        self.path, self.reason = str(path), reason


def one_error(errors: Sequence[ExamplesError]) -> ExamplesError:
    """Combine the errors of several images; the message lists the first twenty files."""
    if len(errors) == 1:
        return errors[0]
    named = [f"{e.path} ({e.reason})" if isinstance(e, UnreadableError) else str(e) for e in errors[:_MAX_LISTED_FILES]]
    more = f" and {len(errors) - _MAX_LISTED_FILES} more" if len(errors) > _MAX_LISTED_FILES else ""
    return ExamplesError(f"{len(errors)} images cannot be read: {', '.join(named)}{more}; replace or remove them")


def load_image(path: str | Path) -> Tensor:
    """Read an image as (3, H, W) float32 in [0, 1]: rotated by its metadata, on white if it is transparent.

    Images of more than 50 million pixels are read at half their width and height.

    Raises:
        UnreadableError: the file is missing, not a regular file, not an image of a supported format, damaged, or beyond one
            of the limits for images in ``limits``.
    """
    return _read(path, lambda pixels: _channels(pixels).float().div_(255))


def load_mask(path: str | Path, *, alpha: bool = False) -> Tensor:
    """(1, H, W) float32 in [0, 1]: an image's red channel, or with ``alpha`` its opacity; raises as ``load_image``."""
    return _read(path, lambda pixels: _channels(pixels)[:1].float().div_(255), _opacity if alpha else None)


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of ``load_image``'s result, in pixels. Decodes the image; raises as ``load_image``."""
    height, width = _read(path, lambda pixels: torch.tensor(pixels.shape[:2])).tolist()
    return height, width


def load_square(path: str | Path, size: int) -> Tensor:
    """``to_square(load_image(path), size)`` with less memory: (3, size, size); raises as ``load_image``."""

    def square(pixels: _Pixels) -> Tensor:
        channels = _channels(pixels[_middle(*pixels.shape[:2], size, size)])
        return torch.cat([to_square(channel.float().div_(255), size) for channel in channels.split(1)])

    return _read(path, square)


def load_squares(images: Iterable[Path | Tensor], size: int) -> list[Tensor]:
    """Each image as (3, size, size) float32 in [0, 1]. Raises: ExamplesError: one error for all unreadable files."""
    squares, errors = list[Tensor](), list[ExamplesError]()
    for image in images:
        try:
            squares.append(to_square(image, size) if isinstance(image, Tensor) else load_square(image, size))
        except ExamplesError as error:
            errors.append(error)
    if errors:
        raise one_error(errors)
    return squares


def to_square(image: Tensor, size: int) -> Tensor:
    """(C, H, W) -> (C, size, size): centre crop to a square, then bicubic with antialiasing."""
    return to_size(image, size, size)


def to_size(image: Tensor, height: int, width: int) -> Tensor:
    """(C, H, W) -> (C, height, width): centre crop to this aspect ratio, then bicubic with antialiasing."""
    part = image[(slice(None), *_middle(*image.shape[1:], height, width))]
    if part.shape[1:] == (height, width):
        return part.clone()
    return F.interpolate(part[None], (height, width), mode="bicubic", antialias=True, align_corners=False)[0].clamp(
        0, 1
    )


def open_image(path: str | Path) -> IO[bytes]:
    """``files.regular.open_regular``, whose errors become an ``UnreadableError``."""
    try:
        return open_regular(path)
    except (OSError, ValueError) as error:
        raise UnreadableError(path, _reason(error)) from error


def _read(path: str | Path, use: Callable[[_Pixels], Tensor], to_rgb: _ToRGB | None = None) -> Tensor:
    """Apply ``use`` to the (H, W, 3) uint8 pixels; any problem with the file becomes an ``UnreadableError``."""
    try:
        with open_image(path) as file:
            return _read_checked(file, use, to_rgb or on_white)
    except UnreadableError:
        raise
    except Exception as error:  # Pillow raises exceptions of many types for damaged metadata, such as struct.error
        raise UnreadableError(path, _reason(error)) from error


def _read_checked(file: IO[bytes], use: Callable[[_Pixels], Tensor], to_rgb: _ToRGB) -> Tensor:
    """``use`` of the pixels of a file that keeps all limits; each is checked before its cost arises."""
    kind, size = kind_of(beginning := file.read(64)), os.fstat(file.fileno()).st_size
    if kind not in READ_KINDS:
        raise ValueError(kind)
    if hint := reader_hint(kind):
        raise ValueError(f"it contains {kind}: {hint}")
    if size > MAX_IMAGE_BYTES:
        raise ValueError(f"its file has {size / 2**30:.1f} GiB; at most {MAX_IMAGE_BYTES / 2**30:.0f} GiB are read")
    if kind == "WEBP":
        _refuse_large(*webp_size(beginning))
    with image_budget.reserved(2 * bytes_to_open(file, kind)):
        image, taken = open_metered(file, kind)
        with image:
            _refuse_large(*image.size)
            pixels = image.width * image.height
            factor = 2 if pixels > _MAX_FULL_SIZE_PIXELS else 1
            memory = 2 * taken + memory_of(image, kind, factor)
            jpegs = jpeg_places(image, size) if kind == "TIFF" else {(0, size)} if kind == "JPEG" else set()
    if memory > image_budget.total:
        most = image_budget.total / 2**30
        raise ValueError(f"reading it takes {memory / 2**30:.1f} GiB of memory; at most {most:.0f} GiB are used")
    most_scans = min(MAX_SCANS, MAX_SCANNED_PIXELS // max(1, pixels))
    if any(count_scans(file, most_scans, *place) > most_scans for place in jpegs):
        raise ValueError(f"a JPEG of more than {most_scans} passes over its pixels; save it as a plain JPEG")
    with image_budget.reserved(memory):
        return use(_decoded(file, kind, factor, to_rgb))


def _refuse_large(width: int, height: int) -> None:
    if width * height > MAX_IMAGE_PIXELS or max(width, height) > MAX_IMAGE_SIDE:
        most = f"{MAX_IMAGE_PIXELS // 1_000_000} million are read, {MAX_IMAGE_SIDE:,} on a side"
        raise ValueError(f"{width} x {height} pixels; at most {most}")


def _decoded(file: IO[bytes], kind: str, factor: int, to_rgb: _ToRGB) -> _Pixels:
    """Decode to upright (H, W, 3) pixels at 1 / factor of the size, and free Pillow's memory."""
    with open_metered(file, kind)[0] as image:
        if factor > 1 and kind == "JPEG" and image.draft(None, (image.width // factor, image.height // factor)):
            factor = 1
        # One block is returned to the system with the image; many smaller blocks would stay with each thread.
        if new_block := getattr(Image.core, "new_block", None):  # type: ignore[attr-defined]  # since Pillow 11
            image.im = new_block(image.mode, getattr(image, "_tile_size", image.size))
        image.load()
        orientation = image.getexif().get(_ORIENTATION, 1)
        white = _white(image)
        rows = max(1, min(_STRIP, _STRIP_PIXELS // image.width) // factor) * factor
        size = (-(-image.height // factor), -(-image.width // factor), 3)
        pixels = np.empty(size, dtype=np.uint8)
        for top, part in _strips(image, rows):  # so that only one full copy of a large image is in memory
            strip = to_rgb(part, white)
            pixels[top // factor : (top + rows) // factor] = np.asarray(strip.reduce(factor) if factor > 1 else strip)
    return _UPRIGHT.get(orientation, lambda p: p)(pixels)


def _strips(image: Image.Image, rows: int) -> Iterator[tuple[int, Image.Image]]:
    """Yield horizontal strips of at most ``rows`` rows, each with the number of its first row."""
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def on_white(image: Image.Image, white: float | None = None) -> Image.Image:
    """Convert to eight bits per channel, red, green and blue, on white."""
    if white is not None:
        image = Image.fromarray((np.asarray(image, dtype=np.float64) * (255 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _opacity(image: Image.Image, white: float | None) -> Image.Image:
    """Repeat the alpha channel in all three channels; white for an image without alpha."""
    if not image.has_transparency_data:
        return Image.new("RGB", image.size, "white")
    return image.convert("RGBA").getchannel("A").convert("RGB")


def _white(image: Image.Image) -> float | None:
    """Value of white of a grey image with more than eight bits, whose values Pillow's conversion would clip; None for others.

    For integers it is the maximum of 8, 12 or 16 bits, the smallest that includes the brightest pixel; for floats it is 1.
    """
    if not image.mode.startswith(("I", "F")):
        return None
    low = high = 0.0
    for _, part in _strips(image, max(1, _STRIP_PIXELS // image.width)):
        strip = np.asarray(part)
        low, high = float(np.minimum(low, strip.min())), float(np.maximum(high, strip.max()))  # these propagate NaN
    kind, whites = ("floating-point", (1.0,)) if image.mode == "F" else ("32-bit", (255.0, 4095.0, 65535.0))
    if not (low >= 0 and high <= whites[-1]):
        raise ValueError(f"its {kind} values from {low:g} to {high:g} have no known white; save it with 8 or 16 bits")
    return next(white for white in whites if high <= white)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, MemoryError):  # depends on the file; the next one may be readable
        return "not enough memory"
    return str(error) or type(error).__name__


def _channels(pixels: _Pixels) -> Tensor:
    """(H, W, 3) -> (3, H, W); a view if possible."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def _middle(height: int, width: int, *aspect: int) -> tuple[slice, slice]:
    """Rows and columns of the largest centre crop with aspect ratio ``aspect`` (height, width)."""
    scale = min(height / aspect[0], width / aspect[1])
    rows, columns = max(1, round(aspect[0] * scale)), max(1, round(aspect[1] * scale))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)
