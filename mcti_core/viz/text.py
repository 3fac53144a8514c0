"""Text in pictures: a font that has the letters, and text that fits, is bold or turned."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

__all__ = ["INK", "PAPER", "SOFT", "draw_rotated_text", "fitted", "text_width", "write"]

INK, SOFT, PAPER = "#1f2328", "#59636e", "#ffffff"
_FONT_FILES = (
    "DejaVuSans.ttf", "segoeui.ttf", "Arial Unicode.ttf", "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc",
    "YuGothM.ttc", "AppleSDGothicNeo.ttc", "malgun.ttf",
)  # fmt: skip
"""What systems usually have, tried in turn: Pillow's own font has no accents and no other script than Latin."""
_NO_LETTER = "\U0010fffe"
_FINE = 4
"""Turned text is drawn so many times larger, then reduced."""


def write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, colour: str, anchor: str, *, bold: bool = False
) -> None:  # fmt: skip
    """Write one line. ``anchor`` says which point of it lies at ``place``, as in Pillow: "lm" is the middle of its left."""
    text = _one_line(text)
    font = _font(text, size)
    draw.text(place, text, fill=colour, font=font, anchor=anchor)
    if bold:  # the usual fonts have no bold letters in the same file
        draw.text((place[0] + size / 30, place[1]), text, fill=colour, font=font, anchor=anchor)


def draw_rotated_text(
    picture: Image.Image, end: tuple[float, float], text: str, size: int, colour: str, degrees: float
) -> None:
    """Write one line that climbs by so many degrees and ends at ``end``, at half its height."""
    width, height = text_width(text, size), 2 * size
    flat = Image.new("L", (_FINE * width, _FINE * height))
    write(ImageDraw.Draw(flat), (flat.width / 2, flat.height / 2), text, _FINE * size, "white", "mm")
    turned = flat.rotate(degrees, Image.Resampling.BICUBIC, expand=True).reduce(_FINE)
    angle = math.radians(degrees)
    middle = end[0] - math.cos(angle) * width / 2, end[1] + math.sin(angle) * width / 2
    picture.paste(colour, (round(middle[0] - turned.width / 2), round(middle[1] - turned.height / 2)), turned)


def text_width(text: str, size: int) -> int:
    """Pixels that the line takes, at least one."""
    text = _one_line(text)
    return max(1, math.ceil(float(_font(text, size).getlength(text))))


def fitted(text: str, size: int, width: int) -> str:
    """The text as one line, shortened with an ellipsis until it fits."""
    text = _one_line(text)
    if text_width(text, size) <= width:
        return text
    kept = bisect_right(range(len(text)), width, key=lambda most: text_width(text[:most].rstrip() + "…", size)) - 1
    return text[: max(0, kept)].rstrip() + "…"


def _one_line(text: str) -> str:
    return " ".join(text.encode(errors="replace").decode().split())  # names of files may hold half letters


def _font(text: str, size: int) -> Any:
    return _opened(_best_file(text), size)


@lru_cache(maxsize=1024)
def _best_file(text: str) -> str | None:
    """The first font that has all the letters; where none has, the one that has most. None is Pillow's own."""
    letters = set(text) - {" "}
    best, fewest = None, len(letters) + 1
    for path in _files():
        font = _opened(path, 16)
        unknown = bytes(font.getmask(_NO_LETTER))  # usually an empty box
        missing = sum(bytes(font.getmask(letter)) == unknown for letter in letters)
        if missing < fewest:
            best, fewest = path, missing
        if not missing:
            break
    return best


def _files() -> Iterator[str | None]:
    yield None
    yield from filter(None, map(_found, _FONT_FILES))


@lru_cache(maxsize=len(_FONT_FILES))
def _found(name: str) -> str | None:
    """Where the system keeps a font; Pillow searches all its folders."""
    try:
        return str(ImageFont.truetype(name, 16).path)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _opened(path: str | None, size: int) -> Any:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)
