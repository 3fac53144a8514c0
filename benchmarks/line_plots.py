"""Line plots, drawn with Pillow like those of ``mcti_core.viz.plots``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from mcti_core.viz.axes import FAINT, LINE, TICK_SIZE, Ticks, nice_ticks
from mcti_core.viz.text import INK, PAPER, SOFT, draw_text, text_width

__all__ = ["Panel", "draw_panels"]

_COLOURS = ("#0b62b8", "#d1600a", "#1a7f5a", "#8a4fbf", "#b8860b", "#c2255c")
_SUPERSAMPLE, _MARGIN, _TEXT, _TITLE = 3, 22, 19, 23
_WIDTH, _HEIGHT, _LINE = 620, 350, 28


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    """Label of the horizontal axis."""
    series: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """Name -> points (x, y), sorted by x."""
    logarithmic: bool = False
    """Whether the horizontal axis is logarithmic."""
    low: float = 0.0
    """Start of the vertical axis."""


def draw_panels(panels: Sequence[Panel], columns: int = 2) -> Image.Image:
    """Draw panels side by side and in rows; a panel with more than one series has their names above its axes."""
    rows = math.ceil(len(panels) / columns)
    pitch = (_WIDTH + 70, _HEIGHT + 140 + max(_LINE * len(_legend(panel)) for panel in panels))
    size = (min(columns, len(panels)) * pitch[0] + 2 * _MARGIN, rows * pitch[1] + _MARGIN)
    picture = Image.new("RGB", (_SUPERSAMPLE * size[0], _SUPERSAMPLE * size[1]), PAPER)
    for index, panel in enumerate(panels):
        corner = (_MARGIN + index % columns * pitch[0], _MARGIN + index // columns * pitch[1])
        _Frame(picture, corner, panel).draw()
    return picture.reduce(_SUPERSAMPLE)


def _legend(panel: Panel) -> list[list[tuple[int, int, str]]]:
    """Rows of (index of the series, x, name) that fit the panel's width."""
    rows: list[list[tuple[int, int, str]]] = [[]]
    x = 0
    for number, name in enumerate(panel.series if len(panel.series) > 1 else ()):
        wide = text_width(name, _TEXT) + 26
        if rows[-1] and x + wide > _WIDTH:
            rows.append([])
            x = 0
        rows[-1].append((number, x, name))
        x += wide
    return rows if rows[0] else []


class _Frame:
    """One panel's axes on a picture that is ``_SUPERSAMPLE`` times too large."""

    def __init__(self, picture: Image.Image, corner: tuple[int, int], panel: Panel):
        self.ink, self.panel = ImageDraw.Draw(picture), panel
        points = [point for series in panel.series.values() for point in series]
        top = max(y for _, y in points)
        self.low, self.high = panel.low, panel.low + (top - panel.low or 1.0) * 1.06
        self.low_x, self.high_x = (self._along(limit(x for x, _ in points)) for limit in (min, max))
        if self.low_x == self.high_x:
            self.low_x, self.high_x = self.low_x - 0.5, self.high_x + 0.5
        if not panel.logarithmic:
            self.low_x = min(0.0, self.low_x)
        self.top = corner[1] + 46 + _LINE * len(_legend(panel))
        self.heights = nice_ticks(self.low, self.high, 8)
        self.left = corner[0] + 12 + max(text_width(text, TICK_SIZE) for _, text in self.heights)
        self.corner, self.width = corner, _WIDTH - (self.left - corner[0])

    def draw(self) -> None:
        draw_text(self.ink, self._fine(*self.corner), self.panel.title, _SUPERSAMPLE * _TITLE, INK, "la")
        for value, text in self.heights:
            y = self._place(self.low_x, value, raw=True)[1]
            self.ink.line(
                (_SUPERSAMPLE * self.left, y, _SUPERSAMPLE * (self.left + self.width), y),
                fill=FAINT,
                width=2 * _SUPERSAMPLE,
            )
            draw_text(self.ink, (_SUPERSAMPLE * (self.left - 10), y), text, _SUPERSAMPLE * TICK_SIZE, SOFT, "rm")
        self._draw_foot()
        for number, points in enumerate(self.panel.series.values()):
            self._draw_series(_COLOURS[number % len(_COLOURS)], points)
        for row, names in enumerate(_legend(self.panel)):
            for number, x, name in names:
                place = self._fine(self.corner[0] + x, self.corner[1] + 42 + _LINE * row)
                draw_text(self.ink, place, name, _SUPERSAMPLE * _TEXT, _COLOURS[number % len(_COLOURS)], "lm")

    def _draw_foot(self) -> None:
        bottom = _SUPERSAMPLE * (self.top + _HEIGHT)
        self.ink.line(
            (_SUPERSAMPLE * self.left, bottom, _SUPERSAMPLE * (self.left + self.width), bottom),
            fill=LINE,
            width=2 * _SUPERSAMPLE,
        )
        for value, text in self._ticks():
            x = self._place(value, self.low, raw=True)[0]
            self.ink.line((x, bottom, x, bottom + 6 * _SUPERSAMPLE), fill=LINE, width=2 * _SUPERSAMPLE)
            draw_text(self.ink, (x, bottom + 22 * _SUPERSAMPLE), text, _SUPERSAMPLE * TICK_SIZE, SOFT, "mm")
        middle = _SUPERSAMPLE * (self.left + self.width / 2)
        draw_text(self.ink, (middle, bottom + 54 * _SUPERSAMPLE), self.panel.x_label, _SUPERSAMPLE * _TEXT, SOFT, "mm")

    def _ticks(self) -> Ticks:
        """On a logarithmic axis 1, 2 and 5 of each power of ten."""
        if not self.panel.logarithmic:
            return nice_ticks(self.low_x, self.high_x, 7)
        powers = range(math.floor(self.low_x) - 1, math.ceil(self.high_x) + 1)
        values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        return tuple(
            (math.log10(value), f"{value:g}") for value in values if self.low_x <= math.log10(value) <= self.high_x
        )

    def _draw_series(self, colour: str, points: Sequence[tuple[float, float]]) -> None:
        places = [self._place(x, y) for x, y in points]
        self.ink.line(places, fill=colour, width=4 * _SUPERSAMPLE, joint="curve")
        reach = 5 * _SUPERSAMPLE
        for x, y in places:
            self.ink.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)

    def _along(self, x: float) -> float:
        return math.log10(x) if self.panel.logarithmic else float(x)

    def _place(self, x: float, y: float, raw: bool = False) -> tuple[float, float]:
        share = ((x if raw else self._along(x)) - self.low_x) / (self.high_x - self.low_x)
        return self._fine(
            self.left + share * self.width, self.top + _HEIGHT * (1 - (y - self.low) / (self.high - self.low))
        )

    def _fine(self, x: float, y: float) -> tuple[float, float]:
        return _SUPERSAMPLE * x, _SUPERSAMPLE * y
