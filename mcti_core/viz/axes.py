"""Axes of a plot: round ticks, positions of values, and curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from PIL import ImageDraw

from .text import SOFT, draw_text

__all__ = ["FAINT", "LINE", "TICK_SIZE", "Axes", "Ticks", "nice_ticks"]

LINE, FAINT = "#d1d9e0", "#eef1f4"
TICK_SIZE = 17
"""Font size of the numbers at ticks, in pixels."""
_DOT = 4
"""Radius in pixels of the dot for a value between gaps."""

Ticks = tuple[tuple[float, str], ...]
"""Values and their texts."""


def nice_ticks(low: float, high: float, most: int, *, whole: bool = False) -> Ticks:
    """At most ``most`` + 1 multiples of 1, 2, 2.5 or 5 times a power of ten in [low, high]; integers if ``whole``."""
    least = max((high - low) / most * (1 - 1e-9), 1e-300)
    steps = (factor * 10.0**power for power in count(math.floor(math.log10(least))) for factor in (1, 2, 2.5, 5))
    step = next(step for step in steps if step >= least and not (whole and step % 1))
    values = [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return tuple((value, f"{value:g}") for value in values)


@dataclass(frozen=True)
class Axes:
    """A rectangle of a picture that shows steps 0 to ``last`` and values ``low`` to ``high``; lengths are in pixels."""

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
        """Values outside are clipped to the edge."""
        share = (np.asarray(value) - self.low) / (self.high - self.low)
        return self.bottom - np.clip(share, 0, 1) * self.height

    def draw_frame(self, draw: ImageDraw.ImageDraw, values: Ticks, steps: Ticks) -> None:
        """Draw a light line at each value, a darker one for the steps, and the numbers at the ticks."""
        right = self.left + self.width
        for value, text in values:
            y = round(float(self.y(value)))
            draw.line((self.left, y, right, y), fill=FAINT, width=2)
            draw_text(draw, (self.left - 10, y), text, TICK_SIZE, SOFT, "rm")
        draw.line((self.left, self.bottom, right, self.bottom), fill=LINE, width=2)
        for step, text in steps:
            x = round(float(self.x(step)))
            draw.line((x, self.bottom, x, self.bottom + 6), fill=LINE, width=2)
            draw_text(draw, (x, self.bottom + 22), text, TICK_SIZE, SOFT, "mm")

    def draw_curve(self, draw: ImageDraw.ImageDraw, values: Sequence[float], colour: str, width: int) -> None:
        """Draw the values (N,) of steps 1 to N; values that are not finite are gaps, and single values between gaps are dots."""
        heights, steps, every = np.asarray(values, dtype=np.float64), np.arange(len(values)), len(values) // self.width
        if every > 1:  # if a pixel covers several steps, draw their minimum and maximum
            steps = steps[::every]
            heights = np.stack([np.fmin.reduceat(heights, steps), np.fmax.reduceat(heights, steps)], 1).ravel()
            steps = steps.repeat(2)
        known = np.isfinite(heights)
        places = np.stack([self.x(steps + 1), self.y(heights)], 1)
        bounds = np.flatnonzero(np.diff(known)) + 1
        for piece, is_known in zip(np.split(places, bounds), np.split(known, bounds), strict=True):
            points = [(x, y) for x, y in piece.tolist()] if is_known.any() else []
            draw.line(points, fill=colour, width=width)
            if len(points) == 1:
                x, y = points[0]
                draw.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill=colour)
