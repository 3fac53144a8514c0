"""Line plots by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Panel", "save_panels"]


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


def save_panels(panels: Sequence[Panel], path: Path) -> None:
    """Draw panels in rows of two into an image file; a panel with more than one series has a legend."""
    from matplotlib.figure import Figure

    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(6.4 * columns, 4.2 * rows), layout="constrained")
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        for name, points in panel.series.items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        axes.set(title=panel.title, xlabel=panel.x_label, xscale="log" if panel.logarithmic else "linear")
        axes.set_ylim(bottom=panel.low)
        axes.grid(axis="y", alpha=0.4)
        if len(panel.series) > 1:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)
