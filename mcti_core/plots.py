"""Plots of a training and of its result, as PIL images: loss curves, confusions, scores.

Figures are made without pyplot, so that nothing here touches a program's own plots.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps
from torch import Tensor

from .errors import ConfigError, MCTIError

__all__ = ["confusion_plot", "loss_curves", "score_bars"]

_INK, _SOFT, _LINE, _FAINT, _PAPER = "#1f2328", "#59636e", "#d1d9e0", "#eef1f4", "#ffffff"
_ACCENT = "#0b62b8"
_COLOURS = ("#0b62b8", "#d1600a", "#1a7f5a", "#8a4fbf", "#b8860b", "#c2255c", "#4a5568", "#0f8b9d")
"""Of several runs in one panel: told apart also by most who are colour-blind."""
_BLUES = ("#ffffff", "#dbe9f6", "#9ecae1", "#4292c6", "#0b62b8", "#083a75")
_FONTS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "PingFang SC",
    "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS", "Noto Sans",
)  # fmt: skip
"""Tried in turn for each letter, since labels may be in any script."""
_DPI, _MARGIN = 144, 22


def loss_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Image.Image:
    """One panel a term: every step's value faintly, its moving average firmly.

    Args:
        histories: name of a run -> name of a term -> its value at every step; nan where it was not computed. Terms that
            hold nothing else are left out.
    """
    terms = [
        term for term in _in_order(histories) if any(_finite(run.get(term, ())).any() for run in histories.values())
    ]
    if not terms:
        raise ConfigError("there are no losses to draw")
    several = len(histories) > 1
    figure = _figure(4.3 * len(terms) + 0.3, 3.7 if several else 3.3)
    for place, term in enumerate(terms, start=1):
        axes = figure.add_subplot(1, len(terms), place)
        _bare(axes)
        axes.grid(axis="y", color=_FAINT, linewidth=0.9)
        axes.set_title(term, loc="left", fontsize=11, color=_INK, pad=10, fontweight="bold")
        axes.set_xlabel("step", fontsize=9, color=_SOFT)
        shown = []
        for number, run in enumerate(histories.values()):
            values = np.asarray(run.get(term, ()), dtype=np.float64)
            if not _finite(values).any():
                continue
            colour, steps = _COLOURS[number % len(_COLOURS)], np.arange(1, len(values) + 1)
            axes.plot(steps, np.where(_finite(values), values, np.nan), color=colour, alpha=0.22, linewidth=0.8)
            smooth = _smoothed(values)
            alone = "o" if len(values) == 1 else None
            axes.plot(steps, smooth, color=colour, linewidth=1.8, solid_capstyle="round", marker=alone, clip_on=False)
            shown += [values, smooth]
        axes.set_ylim(*_limits(shown))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(0, max(2, max(len(values) for values in shown)))
    if several:
        _name_runs(figure, list(histories))
    return _rendered(figure)


def confusion_plot(matrix: Tensor, labels: Sequence[str]) -> Image.Image:
    """True classes as rows, predicted ones as columns; numbers are images.

    The shade is the root of the share of the row, so that also rare confusions show.

    Args:
        matrix: (C, C) int64, as ``metrics.confusion_matrix`` gives it.
        labels: (C,).
    """
    count = len(labels)
    if not count or tuple(matrix.shape) != (count, count):
        raise ConfigError(
            f"a confusion matrix of {count} classes must be ({count}, {count}), got {tuple(matrix.shape)}"
        )
    cells = matrix.double()
    shade = (cells / cells.sum(1, keepdim=True).clamp(min=1)).sqrt().numpy()
    side = min(10.0, max(2.6, 0.42 * count))
    figure = _figure(side + 2.6, side + 1.7)
    axes = figure.add_subplot()
    axes.imshow(shade, cmap=_colour_map(), vmin=0, vmax=1, interpolation="nearest")
    _bare(axes, ticks=0)
    axes.spines[:].set(visible=True, color=_LINE)
    if count <= 40:
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=_FAINT, linewidth=0.8)
        axes.tick_params(which="minor", length=0)
    every = math.ceil(count / 40)
    places, names = range(0, count, every), [_short(label) for label in labels[::every]]
    flat = 0.075 * max(len(name) for name in names) * count < side * every  # inches of the longest, and of its place
    turn = {} if flat else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, names, fontsize=8, **turn)
    axes.set_yticks(places, names, fontsize=8)
    axes.set_xlabel("predicted", fontsize=9, color=_SOFT, labelpad=8)
    axes.set_ylabel("true", fontsize=9, color=_SOFT, labelpad=8)
    if count <= 25:
        for row, column in matrix.nonzero().tolist():
            colour = _PAPER if shade[row, column] > 0.6 else _INK
            axes.text(column, row, str(int(matrix[row, column])), ha="center", va="center", fontsize=8, color=colour)
    return _rendered(figure)


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
    figure = _figure(5.6, 0.34 * len(best) + 0.3)
    axes = figure.add_subplot()
    _bare(axes, ticks=0)
    axes.spines[:].set_visible(False)
    rows = range(len(best))
    axes.barh(rows, [1.0] * len(best), height=0.62, color=_FAINT)
    axes.barh(rows, values[best].tolist(), height=0.62, color=[_ACCENT] + ["#9db7d3"] * (len(best) - 1))
    for row, index in enumerate(best):
        weight = "bold" if row == 0 else "normal"
        axes.text(1.02, row, _percent(float(values[index])), va="center", fontsize=9, color=_INK, fontweight=weight)
    axes.set_xlim(0, 1.14)
    axes.set_ylim(len(best) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks(rows, [_short(labels[index]) for index in best], fontsize=9, color=_INK)
    return _rendered(figure)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MCTIError("plots need matplotlib; install it with: pip install matplotlib") from error
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.05)
    figure = Figure(figsize=(width, height), dpi=_DPI, layout=layout, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    return figure


def _rendered(figure: Any) -> Image.Image:
    """The figure's picture with an even margin."""
    from matplotlib.text import Text

    families = _families()
    for text in figure.findobj(Text):
        text.set_fontfamily(families)
        text.set_parse_math(False)  # a label may hold dollar signs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # an empty box says it well enough
        figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba()).copy()).convert("RGB")
    inside = ImageChops.difference(picture, Image.new("RGB", picture.size, _PAPER)).getbbox()
    return ImageOps.expand(picture.crop(inside), border=_MARGIN, fill=_PAPER)


def _families() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return [name for name in _FONTS if name in installed]


def _colour_map() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blues", _BLUES)


def _bare(axes: Any, ticks: int = 3) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(length=ticks, color=_LINE, labelcolor=_SOFT, labelsize=8.5)


def _name_runs(figure: Any, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=_COLOURS[number % len(_COLOURS)], linewidth=2.4) for number in range(len(names))]
    figure.legend(
        lines, names, loc="outside upper left", ncols=min(5, len(names)), frameon=False, fontsize=9.5, labelcolor=_INK,
        handlelength=1.1, handletextpad=0.6, columnspacing=1.8,
    )  # fmt: skip


def _in_order(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    return list(dict.fromkeys(term for run in histories.values() for term in run))


def _finite(values: Any) -> Any:
    return np.isfinite(np.asarray(values, dtype=np.float64))


def _smoothed(values: Any) -> Any:
    """Moving average over a twentieth of the steps, of what was computed there; nan stays nan."""
    known = _finite(values)
    reach = max(1, len(values) // 40)
    kernel = np.ones(2 * reach + 1)
    sums = np.convolve(np.where(known, values, 0.0), kernel, mode="full")[reach : reach + len(values)]
    counts = np.convolve(known.astype(np.float64), kernel, mode="full")[reach : reach + len(values)]
    return np.where(known, sums / np.maximum(counts, 1), np.nan)


def _limits(series: Sequence[Any]) -> tuple[float, float]:
    """From 0, or below where values are; the top few of noisy values may be cut off, the average never."""
    values = np.concatenate([s[_finite(s)] for s in series])
    averages = np.concatenate([s[_finite(s)] for s in series[1::2]])
    top = max(float(np.quantile(values, 0.995)), float(averages.max()))
    low = min(0.0, float(values.min()))
    return low, top + 0.06 * (top - low or 1.0)


def _short(label: str, most: int = 22) -> str:
    return label if len(label) <= most else label[: most - 1].rstrip() + "…"


def _percent(value: float) -> str:
    return "<1%" if 0 < value < 0.005 else f"{value:.0%}"
