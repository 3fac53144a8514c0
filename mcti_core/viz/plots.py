"""Plots of a training and of its result, as PIL images: loss curves, confusions, scores.

Drawn with Pillow alone, so that they are there wherever the library is. Lengths are pixels of pictures made for sharp screens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from ..errors import ConfigError
from .axes import FAINT, LINE, TICK_SIZE, Axes, nice_ticks
from .text import INK, PAPER, SOFT, draw_rotated_text, fitted, text_width, write

__all__ = ["confusion_plot", "loss_curves", "score_bars"]

_ACCENT, _OTHER = "#0b62b8", "#9db7d3"
_COLOURS = ("#0b62b8", "#d1600a", "#1a7f5a", "#8a4fbf", "#b8860b", "#c2255c", "#4a5568", "#0f8b9d")
"""Of several runs in one panel: told apart also by most who are colour-blind."""
_BLUES = ("#ffffff", "#dbe9f6", "#9ecae1", "#4292c6", "#0b62b8", "#083a75")
_MARGIN, _TEXT, _TITLE = 22, 19, 23
_LABEL_WIDTH = 230
"""Longer labels are shortened."""
_PANEL, _PLOT_HEIGHT = 620, 350


def loss_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Image.Image:
    """One panel a term: every step's value faintly, its moving average firmly.

    Args:
        histories: name of a run -> name of a term -> its value at every step; nan where it was not computed. Terms that
            hold nothing else are left out.
    """
    panels = _panels(histories)
    if not panels:
        raise ConfigError("there are no losses to draw")
    limits = [_limits(list(shown.values())) for shown in panels.values()]
    heights = [nice_ticks(low, high, 8) for low, high in limits]
    gutter = 12 + max(text_width(text, TICK_SIZE) for ticks in heights for _, text in ticks)
    width = len(panels) * _PANEL + 2 * _MARGIN - 10
    legend = _legend(list(histories), width - 2 * _MARGIN - gutter) if len(histories) > 1 else []
    top = _MARGIN + (30 * len(legend) + 26 if legend else 0)
    picture = Image.new("RGB", (width, top + 46 + _PLOT_HEIGHT + 72 + _MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    _draw_legend(draw, legend, _MARGIN + gutter)
    for place, (term, shown) in enumerate(panels.items()):
        left = _MARGIN + place * _PANEL + gutter
        last = max(2, *(len(values) for values, _ in shown.values()))
        axes = Axes(left, top + 46, _PANEL - gutter - 34, _PLOT_HEIGHT, last, *limits[place])
        write(draw, (left, top), fitted(term, _TITLE, axes.width), _TITLE, INK, "la", bold=True)
        axes.draw_frame(draw, heights[place], nice_ticks(0, last, 7, whole=True))
        write(draw, (left + axes.width / 2, axes.bottom + 54), "step", _TEXT, SOFT, "mm")
        for number, (values, smooth) in shown.items():
            axes.draw_curves(picture, _colour(number), [(values, 0.22, 1.6), (smooth, 1.0, 3.6)])
    return picture


def confusion_plot(matrix: Tensor, labels: Sequence[str]) -> Image.Image:
    """True classes as rows, predicted ones as columns; numbers are images.

    The shade is the root of the share of the row, so that also rare confusions show.

    Args:
        matrix: (C, C) int64, as ``evaluation.metrics.confusion_matrix`` gives it.
        labels: (C,).
    """
    count = len(labels)
    if not count or tuple(matrix.shape) != (count, count):
        raise ConfigError(
            f"a confusion matrix of {count} classes must be ({count}, {count}), got {tuple(matrix.shape)}"
        )
    cell = max(1, round(min(1440, max(374, 60 * count)) / count))
    side, every = cell * count, math.ceil(count / 40)
    names = [fitted(label, TICK_SIZE, _LABEL_WIDTH) for label in labels[::every]]
    middles = [cell * place + cell // 2 for place in range(0, count, every)]
    widths = [text_width(name, TICK_SIZE) for name in names]
    flat = max(widths) + 12 <= cell * every
    drop = TICK_SIZE + (0 if flat else math.ceil(max(widths) * math.sqrt(0.5)))
    left, top = _MARGIN + 34 + max(widths) + 12, _MARGIN
    picture = Image.new("RGB", (left + side + _MARGIN, top + side + drop + 50 + _MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    _draw_cells(picture, (left, top), matrix, cell)
    for middle, name in zip(middles, names, strict=True):
        write(draw, (left - 10, top + middle), name, TICK_SIZE, SOFT, "rm")
        if flat:
            write(draw, (left + middle, top + side + 19), name, TICK_SIZE, SOFT, "mm")
        else:
            draw_rotated_text(picture, (left + middle, top + side + 14), name, TICK_SIZE, SOFT, 45)
    write(draw, (left + side / 2, top + side + drop + 36), "predicted", _TEXT, SOFT, "mm")
    draw_rotated_text(picture, (_MARGIN + 8, top + (side - text_width("true", _TEXT)) / 2), "true", _TEXT, SOFT, 90)
    return picture


def score_bars(labels: Sequence[str], confidences: Sequence[float] | Tensor) -> Image.Image:
    """Confidences as bars, the greatest on top and coloured; of more than 12 classes the best 12.

    Args:
        labels: (C,).
        confidences: (C,) in [0, 1].
    """
    values = torch.as_tensor(confidences, dtype=torch.double).flatten()
    if not len(labels) or len(values) != len(labels) or not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(
            f"score bars need as many confidences in [0, 1] as labels, got {len(values)} and {len(labels)}"
        )
    best = values.argsort(descending=True, stable=True)[:12].tolist()
    names = [fitted(labels[index], _TEXT, _LABEL_WIDTH) for index in best]
    left, full, thick, pitch = _MARGIN + 12 + max(text_width(name, _TEXT) for name in names), 540, 31, 50
    picture = Image.new("RGB", (left + full + 64 + _MARGIN, pitch * len(best) - pitch + thick + 2 * _MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    for row, (index, name) in enumerate(zip(best, names, strict=True)):
        y, value = _MARGIN + pitch * row, float(values[index])
        draw.rectangle((left, y, left + full - 1, y + thick - 1), fill=FAINT)
        if value:
            end = left + max(2, round(full * value)) - 1
            draw.rectangle((left, y, end, y + thick - 1), fill=_OTHER if row else _ACCENT)
        middle = y + thick / 2
        write(draw, (left - 12, middle), name, _TEXT, INK, "rm")
        write(draw, (left + full + 12, middle), _percent(value), _TEXT, INK, "lm", bold=row == 0)
    return picture


def _panels(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[int, tuple[Any, Any]]]:
    """Term -> number of a run -> (values, their moving average), of what holds any value."""
    panels: dict[str, dict[int, tuple[Any, Any]]] = {}
    for term in dict.fromkeys(term for run in histories.values() for term in run):
        for number, run in enumerate(histories.values()):
            values = np.asarray(run.get(term, ()), dtype=np.float64)
            if np.isfinite(values).any():
                panels.setdefault(term, {})[number] = values, _smoothed(values)
    return panels


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _legend(names: Sequence[str], width: int) -> list[list[tuple[int, int, str]]]:
    """Rows of (number of the run, x, name as shown) that fit the width."""
    rows: list[list[tuple[int, int, str]]] = [[]]
    x = 0
    for number, name in enumerate(names):
        shown = fitted(name, _TEXT + 1, min(2 * _LABEL_WIDTH, width - 36))
        wide = 36 + text_width(shown, _TEXT + 1)
        if rows[-1] and x + wide > width:
            rows.append([])
            x = 0
        rows[-1].append((number, x, shown))
        x += wide + 34
    return rows


def _draw_legend(draw: ImageDraw.ImageDraw, rows: list[list[tuple[int, int, str]]], left: int) -> None:
    for row, entries in enumerate(rows):
        y = _MARGIN + 30 * row + 10
        for number, x, name in entries:
            draw.rounded_rectangle((left + x, y - 2, left + x + 24, y + 2), 2, fill=_colour(number))
            write(draw, (left + x + 36, y), name, _TEXT + 1, INK, "lm")


def _draw_cells(picture: Image.Image, corner: tuple[int, int], matrix: Tensor, cell: int) -> None:
    """A confusion matrix as squares in blues, with lines and numbers while there is room for them."""
    (left, top), count = corner, len(matrix)
    shares = matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)
    shades = shares.sqrt().numpy()
    stops = np.array([ImageColor.getrgb(colour) for colour in _BLUES])
    blues = [np.interp(shades, np.linspace(0, 1, len(stops)), stops[:, channel]) for channel in range(3)]
    squares = Image.fromarray(np.stack(blues, 2).round().astype(np.uint8))
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
        write(draw, (left + (column + 0.5) * cell, top + (row + 0.5) * cell), number, size, colour, "mm")


def _smoothed(values: Any) -> Any:
    """Moving average over a twentieth of the steps, of what was computed there; nan stays nan."""
    known = np.isfinite(values)
    reach = max(1, len(values) // 40)
    kernel = np.ones(2 * reach + 1)
    sums = np.convolve(np.where(known, values, 0.0), kernel, mode="full")[reach : reach + len(values)]
    counts = np.convolve(known.astype(np.float64), kernel, mode="full")[reach : reach + len(values)]
    return np.where(known, sums / np.maximum(counts, 1), np.nan)


def _limits(shown: Sequence[tuple[Any, Any]]) -> tuple[float, float]:
    """From 0, or below where values are; the top few of noisy values may be cut off, the average never."""
    values, averages = (np.concatenate([s[np.isfinite(s)] for s in kind]) for kind in zip(*shown, strict=True))
    top = max(float(np.quantile(values, 0.995)), float(averages.max()))
    low = min(0.0, float(values.min()))
    return low, top + 0.06 * (top - low or abs(top) or 1.0)


def _percent(value: float) -> str:
    return "<1%" if 0 < value < 0.005 else f"{value:.0%}"
