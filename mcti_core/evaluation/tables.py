"""Report of the benchmark's results: Markdown tables, differences to other results, and a plot."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from ..errors import counted
from ..escaping import escaped
from .cells import METHODS, REAL
from .metrics import mean_and_deviation
from .results import Figures, Results

__all__ = ["comparison", "plot", "report"]

_PANELS = 36
"""Maximum number of panels in a plot."""
_DRAWN = {"agreement": "right class, %", "clip_i": "CLIP-I", "diversity": "diversity"}


def report(results: Results) -> str:
    """Markdown tables of the data sets, and of accuracies and drawing measures per number of shots."""
    lines = [f"{', '.join(f'{n} {v}' for n, v in results.versions.items())}.", ""]
    rows = []
    for name, facts in results.data.items():
        classes, test = (f"{facts[key]:,} of {facts[f'{key}_in_all']:,}" for key in ("classes", "test_images"))
        own_test = "yes" if facts["own_test"] else "no: a third of all images"
        rows.append([name, classes, f"{facts['training_images']:,}", test, own_test])
    lines += _table(["data set", "classes", "training images", "test images", "a test part of its own"], rows)
    lines += [_plain(f"\nLeft out: {name}: {why}") for name, why in results.missing.items()]
    chance = {name: 100 / facts["classes"] for name, facts in results.data.items()}
    figures = Figures(results.cells)
    for shots in figures.shots:
        names = [name for name in results.data if figures.has(name, shots)]
        rows = [["chance", *(f"{chance[name]:.1f}" for name in names)]]
        rows += [[m, *(_cell(figures, name, shots, m, "accuracy", 100) for name in names)] for m in METHODS]
        if len(names) > 1:
            means = [f"{statistics.mean(chance[name] for name in names):.1f}"]
            means += [_mean(figures, names, shots, method) for method in METHODS]
            rows = [[*row, mean] for row, mean in zip(rows, means, strict=True)]
        lines += ["", f"Accuracy in %, {counted(shots, 'shot')}:", ""]
        lines += _table(["method", *names, *["mean"] * (len(names) > 1)], rows)
        rows = [
            [f"{method}: {title}", *(_cell(figures, n, shots, method, key, 100 if "%" in title else 1) for n in names)]
            for key, title in _DRAWN.items()
            for method in ("TI", "MC-TI", REAL)
        ]
        if any(any(row[1:]) for row in rows):
            lines += ["", f"Drawings, {counted(shots, 'shot')}:", "", *_table(["tokens", *names], rows)]
    return _text(lines)


def comparison(results: Results, other: Results) -> str:
    """Paired accuracy differences to ``other`` in points: mean and standard deviation over the seeds that both have."""
    lines, figures, others = [], Figures(results.cells), Figures(other.cells)
    for shots in figures.shots:
        rows, names = [], [name for name in results.data if figures.has(name, shots)]
        for method in METHODS:
            pairs = [[each.values(n, shots, method) for each in (figures, others)] for n in names]
            gains = [[100 * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs] for ours, theirs in pairs]
            rows.append([method, *(mean_and_deviation(values, "+.1f") for values in gains)])
        lines += ["", f"Difference in points, {counted(shots, 'shot')}:", "", *_table(["method", *names], rows)]
    return _text(lines)


def plot(results: Results) -> Image.Image:
    """Accuracy over shots with standard deviations over seeds, and chance; one panel for each of the first data sets.

    A ``matplotlibrc`` in the current folder does not apply: it could have LaTeX draw the names.
    """
    from matplotlib import rc_context, rcdefaults

    with rc_context():
        rcdefaults()
        return _plot(results)


def _plot(results: Results) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figures = Figures(results.cells)
    shots, names = figures.shots, list(results.data)[:_PANELS]
    columns = min(4, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(4 * columns, 3.4 * rows + 0.8), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, name in zip(panels, names, strict=False):
        for number, method in enumerate(METHODS):
            values = {k: [100 * value for value in figures.values(name, k, method).values()] for k in shots}
            if points := {k: each for k, each in values.items() if each}:
                means = [statistics.mean(each) for each in points.values()]
                deviations = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in points.values()]
                style = {"color": f"C{number % 10}", "marker": "os^v"[number // 3 % 4], "capsize": 2}
                panel.errorbar(list(points), means, deviations, label=method, **style)
        panel.axhline(100 / results.data[name]["classes"], color="grey", linestyle=":", label="chance")
        panel.set_title(escaped(name), parse_math=False)  # $ in a folder's name begins no formula
        panel.set(xlabel="shots", ylabel="accuracy, %", xscale="log")
        ticks = shots[:: -(-len(shots) // 20) or 1]
        panel.set_xticks(ticks, [str(k) for k in ticks])
        panel.set_xticks([], minor=True)
    for panel in list(panels)[len(names) :]:
        panel.remove()
    if names:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _cell(figures: Figures, name: str, shots: int, method: str, measure: str, factor: int) -> str:
    values = figures.values(name, shots, method, measure).values()
    return mean_and_deviation([factor * value for value in values], ".1f" if factor > 1 else ".3f")


def _mean(figures: Figures, names: Sequence[str], shots: int, method: str) -> str:
    """Mean over the data sets; empty if one of them lacks the method."""
    found = [figures.values(name, shots, method).values() for name in names]
    return f"{100 * statistics.mean(map(statistics.mean, found)):.1f}" if all(found) else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, without rows that have no figures."""
    lines = [head, ["---"] * len(head), *(row for row in rows if any(row[1:]))]
    return ["| " + " | ".join(map(_plain, line)) + " |" for line in lines]


def _plain(text: str) -> str:
    """Escape what would begin another cell, HTML, an image or code in Markdown."""
    return re.sub(r"([|<!`])", r"\\\1", text)


def _text(lines: Iterable[str]) -> str:
    """One text, with the names of classes and folders escaped."""
    return "\n".join(escaped(line) for text in lines for line in text.split("\n")) + "\n"
