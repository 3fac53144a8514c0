"""Plots as PIL images: loss curves, confusion matrices, scores.

They use only Pillow, since ComfyUI has no matplotlib. Lengths are in pixels, for high-resolution screens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from ..errors import ConfigError
from .axes import FAINT, LINE, TICK_SIZE, Axes, nice_ticks
from .text import INK, PAPER, SOFT, draw_text, text_width, truncate

__all__ = ["confusion_plot", "loss_curves", "score_bars"]

_ACCENT, _OTHER = "#0b62b8", "#9db7d3"
_COLOURS = ("#0b62b8", "#d1600a", "#1a7f5a", "#8a4fbf", "#b8860b", "#c2255c", "#4a5568", "#0f8b9d")
"""Colours of several runs in one panel, chosen for colour-blind readers too."""
_MARGIN, _TEXT, _TITLE = 22, 19, 23
_LABEL_WIDTH = 230
"""Width in pixels to which longer labels are shortened."""
_PANEL, _PLOT_HEIGHT = 620, 350


def loss_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Image.Image:
    """Plot one panel per term: the value of each step as a pale line, and the moving average as a strong line.

    Args:
        histories: name of a run -> name of a term -> its value at each step; NaN if it was not computed. Terms without
            any value are left out.
    """
    panels = _panels(histories)
    if not panels:
        raise ConfigError("there are no losses to draw")
    limits = [_limits(list(shown.values())) for shown in panels.values()]
    heights = [nice_ticks(low, high, 8) for low, high in limits]
    gutter = 12 + max(text_width(text, TICK_SIZE) for ticks in heights for _, text in ticks)
    width = len(panels) * _PANEL + 2 * _MARGIN - 10
    top = _MARGIN + (56 if len(histories) > 1 else 0)
    picture = Image.new("RGB", (width, top + 46 + _PLOT_HEIGHT + 72 + _MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    colours = list(islice(cycle(_COLOURS), len(histories)))
    if len(histories) > 1:
        _draw_legend(draw, dict(zip(histories, colours, strict=True)), _MARGIN + gutter, width - _MARGIN)
    for place, (term, shown) in enumerate(panels.items()):
        left = _MARGIN + place * _PANEL + gutter
        last = max(2, *(len(values) for values, _ in shown.values()))
        axes = Axes(left, top + 46, _PANEL - gutter - 34, _PLOT_HEIGHT, last, *limits[place])
        draw_text(draw, (left, top), truncate(term, _TITLE, axes.width), _TITLE, INK, "la")
        axes.draw_frame(draw, heights[place], nice_ticks(0, last, 7, whole=True))
        draw_text(draw, (left + axes.width / 2, axes.bottom + 54), "step", _TEXT, SOFT, "mm")
        for number, (values, _) in shown.items():
            axes.draw_curve(draw, values, _pale(colours[number]), 1)
        for number, (_, smooth) in shown.items():
            axes.draw_curve(draw, smooth, colours[number], 4)
    return picture


def confusion_plot(matrix: Tensor, labels: Sequence[str]) -> Image.Image:
    """Plot a confusion matrix: true classes as rows, predicted classes as columns, numbers of images in the cells.

    The shade is the square root of the share of the row, so that rare confusions are visible.

    Args:
        matrix: (C, C) int64, as ``evaluation.metrics.confusion_matrix`` returns it.
        labels: (C,).
    """
    count = len(labels)
    if not count or tuple(matrix.shape) != (count, count):
        raise ConfigError(f"a confusion matrix of {count} classes is ({count}, {count}), got {tuple(matrix.shape)}")
    cell = max(1, round(min(1440, max(374, 60 * count)) / count))
    side, every = cell * count, math.ceil(count / 40)
    rows = [truncate(label, TICK_SIZE, _LABEL_WIDTH) for label in labels[::every]]
    columns = rows
    if max(text_width(name, TICK_SIZE) for name in rows) + 12 > cell * every:  # names do not fit side by side
        columns = [str(number) for number in range(1, count + 1, every)]
        rows = [f"{number}: {name}" for name, number in zip(rows, columns, strict=True)]
    left, top = _MARGIN + max(text_width(name, TICK_SIZE) for name in (*rows, "true")) + 12, _MARGIN + 30
    picture = Image.new("RGB", (left + side + _MARGIN, top + side + 70 + _MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    _draw_cells(picture, (left, top), matrix, cell)
    for place, row, column in zip(range(0, count, every), rows, columns, strict=True):
        middle = cell * place + cell // 2
        draw_text(draw, (left - 10, top + middle), row, TICK_SIZE, SOFT, "rm")
        draw_text(draw, (left + middle, top + side + 19), column, TICK_SIZE, SOFT, "mm")
    draw_text(draw, (left - 10, _MARGIN + 10), "true", _TEXT, SOFT, "rm")
    draw_text(draw, (left + side / 2, top + side + 54), "predicted", _TEXT, SOFT, "mm")
    return picture


def score_bars(labels: Sequence[str], confidences: Sequence[float] | Tensor) -> Image.Image:
    """Plot confidences as bars, the largest on top in another colour; at most the best 12 classes are shown.

    Args:
        labels: (C,).
        confidences: (C,) in [0, 1].
    """
    values = torch.as_tensor(confidences, dtype=torch.double).flatten()
    if not len(labels) or len(values) != len(labels) or not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(f"score bars need a confidence in [0, 1] per label, got {len(values)} and {len(labels)}")
    best = values.argsort(descending=True, stable=True)[:12].tolist()
    names = [truncate(labels[index], _TEXT, _LABEL_WIDTH) for index in best]
    left, full, thick, pitch = _MARGIN + 12 + max(text_width(name, _TEXT) for name in names), 540, 31, 50
    picture = Image.new("RGB", (left + full + 64 + _MARGIN, pitch * len(best) - pitch + thick + 2 * _MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    for row, (index, name) in enumerate(zip(best, names, strict=True)):
        y, value = _MARGIN + pitch * row, float(values[index])
        draw.rectangle((left, y, left + full - 1, y + thick - 1), fill=FAINT)
        if value:
            end = left + max(2, round(full * value)) - 1
            draw.rectangle((left, y, end, y + thick - 1), fill=_OTHER if row else _ACCENT)
        middle, share = y + thick / 2, "<1%" if 0 < value < 0.005 else f"{value:.0%}"
        draw_text(draw, (left - 12, middle), name, _TEXT, INK, "rm")
        draw_text(draw, (left + full + 12, middle), share, _TEXT, INK, "lm")
    return picture


def _panels(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[int, tuple[Any, Any]]]:
    """Term -> number of a run -> (values, moving average), for terms that have any value."""
    panels = dict[str, dict[int, tuple[Any, Any]]]()
    for term in dict.fromkeys(term for run in histories.values() for term in run):
        for number, run in enumerate(histories.values()):
            values = np.asarray(run.get(term, ()), dtype=np.float64)
            if np.isfinite(values).any():
                panels.setdefault(term, {})[number] = values, _smoothed(values)
    return panels


def _pale(colour: str) -> str:
    red, green, blue = (255 - (255 - value) // 4 for value in ImageColor.getrgb(colour))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _draw_legend(draw: ImageDraw.ImageDraw, colours: Mapping[str, str], left: int, right: int) -> None:
    """Draw the legend in one row, with equal space for each run."""
    room = min(480, (right - left) // len(colours))
    for number, (name, colour) in enumerate(colours.items()):
        x, y = left + room * number, _MARGIN + 10
        draw.line((x, y, x + 24, y), fill=colour, width=4)
        draw_text(draw, (x + 36, y), truncate(name, _TEXT, max(1, room - 60)), _TEXT, INK, "lm")


def _draw_cells(picture: Image.Image, corner: tuple[int, int], matrix: Tensor, cell: int) -> None:
    """Draw a confusion matrix as blue squares, with lines up to 40 classes and numbers up to 25."""
    (left, top), count = corner, len(matrix)
    shares = matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)
    shades = shares.sqrt().numpy()
    pixels = 255 - shades[..., None] * (255 - np.array(ImageColor.getrgb(_ACCENT)))
    squares = Image.fromarray(pixels.round().astype(np.uint8))
    side = cell * count
    picture.paste(squares.resize((side, side), Image.Resampling.NEAREST), corner)
    draw = ImageDraw.Draw(picture)
    for offset in range(cell, side, cell) if count <= 40 else ():
        draw.line((left + offset, top, left + offset, top + side), fill=FAINT, width=2)
        draw.line((left, top + offset, left + side, top + offset), fill=FAINT, width=2)
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=LINE, width=2)
    for row, column in matrix.nonzero().tolist() if count <= 25 else ():
        number, colour = str(int(matrix[row, column])), PAPER if shades[row, column] > 0.6 else INK
        size = min(TICK_SIZE, max(6, TICK_SIZE * (cell - 6) // text_width(number, TICK_SIZE)))
        draw_text(draw, (left + (column + 0.5) * cell, top + (row + 0.5) * cell), number, size, colour, "mm")


def _smoothed(values: Any) -> Any:
    """Moving average of the finite values over a twentieth of the steps; NaN stays NaN."""
    known = np.isfinite(values)
    reach, steps = max(1, len(values) // 40), np.arange(len(values))
    running = np.cumsum([np.where(known, values, 0.0), known], axis=1)
    running = np.pad(running, ((0, 0), (1, 0)))  # (2, N + 1) sums of values and their counts before each step
    sums, counts = running[:, (steps + reach + 1).clip(max=len(values))] - running[:, (steps - reach).clip(0)]
    return np.where(known, sums / np.maximum(counts, 1), np.nan)


def _limits(shown: Sequence[tuple[Any, Any]]) -> tuple[float, float]:
    """Limits of the axis: from 0 or the smallest value, to the 99.5 % quantile of the values or the largest average."""
    values, averages = (np.concatenate([s[np.isfinite(s)] for s in kind]) for kind in zip(*shown, strict=True))
    top = max(float(np.quantile(values, 0.995)), float(averages.max()))
    low = min(0.0, float(values.min()))
    return low, top + 0.06 * (top - low or abs(top) or 1.0)
