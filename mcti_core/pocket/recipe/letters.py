"""Letters of several scripts in handwriting and display fonts, as thin pen lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .strokes import thinned

__all__ = ["FEWEST_FONTS", "LETTERS", "MOST_FONTS", "letter_lines"]

LETTERS = {
    "Latin": "ACDEFJKLMPQRTVY",
    "Greek": "ΔΨΩ",
    "Cyrillic": "БДЛЦЩЪЫЮЯЭ",
    "Hebrew": "אבגדהזחטכלמנעפצקרשת",
    "Arabic": "بجخسشصطظعغفقكلنيةء",
    "Thai": "กขคฆงจฉชซญฎฐฑฒณดตถทธนบปผฝพฟภมยรลวศษสหฬอฮ",
    "Hiragana": "あいうえおかきけこさすせそたとなにぬねのはひふほまみむめもやゆよれわをん",
    "Hangul": "가나다라마바사자타하고노도로모보",
    "Gujarati": "કખગઘચછજઝણતથધનપફબભમયરલવશષસહ",
}
"""No digits, and no letters that resemble a European digit (O, I, S, З, ろ, ...) or, when rotated, another letter here."""
FEWEST_FONTS, MOST_FONTS = 4, 24
_SIDE = 112
_LETTER = 64
"""Larger side of a letter in pixels, in an image of ``_SIDE``."""


def letter_lines(folder: Path) -> tuple[list[str], list[Tensor]]:
    """Read all font packages in ``node_modules/@fontsource`` that have the Open Font License.

    Returns:
        Names "script/letter", and for each letter its drawings, one per font: (fonts, 112, 112) float in [0, 1].
    """
    fonts = [_Font(path) for path in sorted(folder.iterdir()) if (path / "metadata.json").exists()]
    fonts = [font for font in fonts if font.licence == "OFL-1.1"]
    names, drawings = [], []
    for script, letters in LETTERS.items():
        for letter in letters:
            shapes = [shape for font in fonts if (shape := font.draw(letter)) is not None]
            shapes = list({shape.tobytes(): shape for shape in shapes}.values())  # fonts of one family may be equal
            if len(shapes) < FEWEST_FONTS:
                raise ValueError(f"{script} {letter} is in {len(shapes)} fonts; {FEWEST_FONTS} are needed")
            evenly_spaced = np.linspace(0, len(shapes) - 1, min(len(shapes), MOST_FONTS)).round().astype(int)
            lines = thinned(torch.from_numpy(np.stack([shapes[i] for i in evenly_spaced])))
            names.append(f"{script}/{letter}")
            drawings.append(F.max_pool2d(lines[:, None].float(), 3, 1, 1)[:, 0])
    return names, drawings


class _Font:
    """One package: files by subset of characters, weight and style, of which the regular ones are used."""

    def __init__(self, folder: Path):
        self.folder = folder
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        self.licence, self.name = metadata["license"]["type"], metadata["id"]
        self.weight = min(metadata["weights"], key=lambda weight: abs(weight - 400))
        ranges = folder / "unicode.json"
        self.subsets = json.loads(ranges.read_text(encoding="utf-8")) if ranges.exists() else {}
        self.open: dict[str, ImageFont.FreeTypeFont] = {}

    def draw(self, letter: str) -> np.ndarray | None:
        """The letter (112, 112) bool, centred, its larger side 64 pixels; None if the font does not have it."""
        for subset, ranges in self.subsets.items():
            if not _within(ord(letter), ranges):
                continue
            path = self.folder / "files" / f"{self.name}-{subset.strip('[]')}-{self.weight}-normal.woff2"
            if not path.exists():
                continue
            if subset not in self.open:
                self.open[subset] = ImageFont.truetype(str(path), 160)
            drawn, absent = _drawn(self.open[subset], letter), _drawn(self.open[subset], "\ue123")
            if drawn is not None and (absent is None or drawn.tobytes() != absent.tobytes()):
                return np.asarray(drawn) > 127
        return None


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> Image.Image | None:
    large = Image.new("L", (480, 480))
    ImageDraw.Draw(large).text((160, 120), letter, fill=255, font=font)
    box = large.getbbox()
    if box is None:
        return None
    scale = _LETTER / max(box[2] - box[0], box[3] - box[1])
    size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    image = Image.new("L", (_SIDE, _SIDE))
    image.paste(large.crop(box).resize(size, Image.Resampling.BOX), ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    return image


def _within(code: int, ranges: str) -> bool:
    """Whether ranges such as "U+0061-007A,U+00AA" contain the code point."""
    for part in ranges.removeprefix("U+").replace("U+", "").split(","):
        first, _, last = part.partition("-")
        if int(first, 16) <= code <= int(last or first, 16):
            return True
    return False
