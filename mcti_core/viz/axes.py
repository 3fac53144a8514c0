"""Axes of a plot: round ticks, the place of a value, and antialiased curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .text import SOFT, write

__all__ = ["FAINT", "LINE", "TICK_SIZE", "Axes", "Ticks", "nice_ticks"]

LINE, FAINT = "#d1d9e0", "#eef1f4"
TICK_SIZE = 17
"""Of the numbers at ticks, in pixels."""
_FINE = 3
"""Curves are drawn so many times larger, then reduced."""
_SPILL = 6
"""Pixels that a curve's width may spill over the axes."""

Ticks = tuple[tuple[float, str], ...]
"""Values and how they are written."""


def nice_ticks(low: float, high: float, most: int, *, whole: bool = False) -> Ticks:
    """The multiples in [low, high] of 1, 2, 2.5 or 5 times a power of ten, with at most so many spaces between them.

    Args:
        whole: of integers only.
    """
    step = _round_step((high - low) / most, whole)
    values = [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    greatest = max(map(abs, values), default=0.0) or 1.0
    power = math.floor(math.log10(greatest) + 1e-9)
    power = 0 if -4 <= power <= 5 else power
    unit, ending = 10.0**power, f"e{power}" if power else ""
    places = next((p for p in range(9) if math.isclose(round(step / unit, p), step / unit, rel_tol=1e-6)), 9)
    return tuple((value, f"{value / unit:.{places}f}{ending}" if value or not power else "0") for value in values)


def _round_step(least: float, whole: bool) -> float:
    """The smallest round number that is not below ``least``."""
    powers = count(math.floor(math.log10(least)))
    steps = (factor * 10.0**power for power in powers for factor in (1, 2, 2.5, 5))
    return next(step for step in steps if step >= least * (1 - 1e-9) and not (whole and step % 1))


@dataclass(frozen=True)
class Axes:
    """A rectangle of a picture that stands for steps 0 to ``last`` and values ``low`` to ``high``; lengths in pixels."""

    left: int
    top: int
    width: int
    height: int
    last: int
    low: float
    high: float

    @property
    def bottom(self) -> int:
        return self.top + self.height

    def x(self, step: Any) -> Any:
        return self.left + np.asarray(step) / self.last * self.width

    def y(self, value: Any) -> Any:
        """Values far outside stay at a distance that can be drawn."""
        share = (np.asarray(value) - self.low) / (self.high - self.low)
        return self.bottom - np.clip(share, -20, 20) * self.height

    def draw_frame(self, draw: ImageDraw.ImageDraw, values: Ticks, steps: Ticks) -> None:
        """A light line at each value, a firm one along the steps, and the ticks' numbers."""
        right = self.left + self.width
        for value, text in values:
            y = round(float(self.y(value)))
            draw.line((self.left, y, right, y), fill=FAINT, width=2)
            write(draw, (self.left - 10, y), text, TICK_SIZE, SOFT, "rm")
        draw.line((self.left, self.bottom, right, self.bottom), fill=LINE, width=2)
        for step, text in steps:
            x = round(float(self.x(step)))
            draw.line((x, self.bottom, x, self.bottom + 6), fill=LINE, width=2)
            write(draw, (x, self.bottom + 22), text, TICK_SIZE, SOFT, "mm")

    def draw_curves(self, picture: Image.Image, colour: str, curves: Sequence[tuple[Any, float, float]]) -> None:
        """Draw values (N,) of steps 1 to N, each with its own (opacity, line width); nan is a gap."""
        size = (self.width + 2 * _SPILL, self.height + 2 * _SPILL)
        mask = Image.new("L", (_FINE * size[0], _FINE * size[1]))
        draw, corner = ImageDraw.Draw(mask), np.array([self.left - _SPILL, self.top - _SPILL])
        for values, opacity, width in curves:
            fill, thick = round(255 * opacity), _FINE * width
            if np.isfinite(values).sum() == 1:
                thick *= 3  # else it would hardly be seen
            for piece in self._pieces(np.asarray(values, dtype=np.float64)):
                points = [tuple(place) for place in ((piece - corner) * _FINE).tolist()]
                draw.line(points, fill=fill, width=round(thick))
                reach = (round(thick) - 1) / 2
                for x, y in points:  # round joints and ends
                    draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)
        picture.paste(colour, tuple(corner.tolist()), mask.reduce(_FINE))

    def _pieces(self, values: Any) -> Iterator[Any]:
        """The curve between its gaps, as places (K, 2); where two pixels hold several steps, their least and greatest."""
        values = np.where(np.isfinite(values), values, np.nan)
        steps, every = np.arange(1.0, len(values) + 1), max(1, 2 * len(values) // self.width)
        if every > 1:
            values = np.pad(values, (0, -len(values) % every), constant_values=np.nan).reshape(-1, every)
            values = np.stack([np.fmin.reduce(values, 1), np.fmax.reduce(values, 1)], 1).ravel()
            steps = np.linspace(1, len(steps), len(values) // 2).repeat(2)
        known = np.isfinite(values)
        places = np.stack([self.x(steps), self.y(values)], 1)
        bounds = [0, *(np.flatnonzero(np.diff(known)) + 1), len(known)]
        yield from (places[start:end] for start, end in pairwise(bounds) if known[start])
