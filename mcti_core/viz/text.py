"""Draw text in pictures: choose a font that has the letters, and shorten text to a width."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any

from PIL import ImageDraw, ImageFont

__all__ = ["INK", "PAPER", "SOFT", "draw_text", "text_width", "truncate"]

INK, SOFT, PAPER = "#1f2328", "#59636e", "#ffffff"
_FONT_FILES = (
    "DejaVuSans.ttf", "segoeui.ttf", "Arial Unicode.ttf", "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc",
    "YuGothM.ttc", "AppleSDGothicNeo.ttc", "malgun.ttf",
)  # fmt: skip
"""Fonts that systems usually have. Pillow's own font has Latin letters only, and no accents."""
_NO_FOLDER = os.path.join(os.path.dirname(__file__), "no fonts here")
_SAMPLE_LETTERS = 32
"""Letters of a text by which its font is chosen: each is drawn in each font."""
_UNSUPPORTED_LETTER = "\U0010fffe"
"""A character that no font has; fonts draw it, like every letter that they lack, as an empty box."""


def draw_text(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, colour: str, anchor: str
) -> None:
    """Draw one line of text. ``anchor`` is the point of the text at ``place``, as in Pillow: "lm" is the middle of the left edge."""
    text = _one_line(text)
    draw.text(place, text, fill=colour, font=_font(text, size), anchor=anchor)


def text_width(text: str, size: int) -> int:
    """Width of the line in pixels, at least 1."""
    text = _one_line(text)
    return max(1, math.ceil(_font(text, size).getlength(text)))


def truncate(text: str, size: int, width: int) -> str:
    """The text in one line, shortened with an ellipsis to ``width`` pixels."""
    shown = text = _one_line(text)
    if len(text) > width:  # no letter is narrower than a pixel
        shown, text = f"{text[:width]}…", text[:width]
    while text and text_width(shown, size) > width:
        text = text[:-1].rstrip()
        shown = f"{text}…"
    return shown


def _one_line(text: str) -> str:
    return " ".join(text.encode(errors="replace").decode().split())  # file names may contain surrogate halves


def _font(text: str, size: int) -> Any:
    return _open_font(None if text.isascii() else _best_font(text[:_SAMPLE_LETTERS]), size)


@lru_cache(maxsize=1024)
def _best_font(text: str) -> str | None:
    """The font that has most of the letters; None for Pillow's own."""

    def letters_known(name: str | None) -> int:
        font = _open_font(name, 16)
        unknown = bytes(font.getmask(_UNSUPPORTED_LETTER))
        return sum(bytes(font.getmask(letter)) != unknown for letter in set(text))

    return max((None, *_installed()), key=letters_known)


@cache
def _installed() -> tuple[str, ...]:
    """The usual fonts that this system has."""
    found = []
    for name in _FONT_FILES:
        with suppress(OSError):
            _open_font(name, 16)
            found.append(name)
    return tuple(found)


@lru_cache(maxsize=64)
def _open_font(name: str | None, size: int) -> Any:
    """Load a font; None is Pillow's own. Pillow searches a bare name in the current folder first, whose files are untrusted, but a
    path in a missing folder only in the system's folders."""
    return ImageFont.load_default(size) if name is None else ImageFont.truetype(os.path.join(_NO_FOLDER, name), size)
