"""Measure the growth of cost with classes, shots, vectors per token, resolution and batch.

Usage: python -m benchmarks.growth [--quick] [--output-json FILE] [--plot FILE.png] [--threads N] [--model pocket|sd15-small] [--device cuda] [--dtype bf16]

One parameter changes at a time; the others stay at the base (10 classes, 5 shots, 1 vector, the model's own size, batch 20). All cases
take turns in one run, and medians count. Columns:

prepare            ms per example, once: autoencoder and vision tower, including the mirror image
step               ms per optimizer step
per sample         ms per image of a step
CLIP               ms per classified image
diffusion          ms per classified image, with every class on 4 pairs and without the sequential test
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.hosts.base import Host
from mcti_core.hosts.diffusers.loading import quiet_libraries
from mcti_core.training.config import TrainConfig
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import train

from .line_plots import Panel, save_panels
from .models import host_of, model_folder, random_examples
from .report import machine, parsed, show, write_json
from .timing import Case, interleaved

PAIRS, IMAGES = 4, 16
AXES = {
    "classes": (2, 5, 10, 20, 50),
    "shots": (1, 2, 5, 10),
    "vectors": (1, 2, 4, 8),
    "size": (1.0, 1.5, 2.0),
    "batch_size": (4, 10, 20, 40),
}
"""``size`` times the model's own."""


@dataclass(frozen=True)
class Point:
    """Parameters of one measurement."""

    classes: int = 10
    shots: int = 5
    vectors: int = 1
    size: float = 1.0
    batch_size: int = 20


def points(quick: bool) -> list[tuple[str, Point]]:
    """Every axis with its values; the base occurs once per axis."""
    chosen = {name: (values[0], values[-1]) if quick else values for name, values in AXES.items()}
    return [(name, replace(Point(), **{name: value})) for name, values in chosen.items() for value in values]


def cases_of(host: Host, point: Point, steps: int) -> dict[str, Case]:
    """Timed cases at one point."""
    side = int(host.image_size * point.size)
    dataset = random_examples(point.classes, point.shots, side)
    cache = FeatureCache.build(host, dataset, size=side)
    tokens = new_tokens(host, cache.classes, num_vectors=point.vectors, initializer_token="random")
    config = TrainConfig(steps=steps, batch_size=point.batch_size)
    by_clip, by_denoiser = ClipClassifier(host, tokens), DiffusionClassifier(host, tokens, num_trials=PAIRS, alpha=0.0)
    images = torch.rand(IMAGES, 3, side, side)
    return {
        "prepare": Case(lambda: FeatureCache.build(host, dataset, size=side), len(dataset)),
        "step": Case(lambda: train(host, cache, tokens, config), steps),
        "CLIP": Case(lambda: by_clip.scores(images), IMAGES),
        "diffusion": Case(lambda: by_denoiser.scores(images[:1]), 1),
    }


def measure(host: Host, quick: bool) -> list[dict[str, Any]]:
    found = points(quick)
    timed: dict[Point, dict[str, Case]] = {}
    for _, point in found:
        if point not in timed:
            timed[point] = cases_of(host, point, 1 if quick else 3)
    flat = {f"{number} {name}": case for number, cases in enumerate(timed.values()) for name, case in cases.items()}
    timed_cases = interleaved(flat, 1 if quick else 3, str(host.device))
    rows = []
    for axis, point in found:
        number = list(timed).index(point)
        row: dict[str, Any] = {"what grows": axis, "to": asdict(point)[axis]}
        row |= {f"{name}, ms": 1000 * timed_cases[f"{number} {name}"].median for name in timed[point]}
        row["per sample, ms"] = row["step, ms"] / point.batch_size
        row["evaluations"] = PAIRS * point.classes
        rows.append(row)
    return rows


def panels_of(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """One panel per axis, with every cost relative to its value at the axis's first point."""
    panels = []
    for axis in AXES:
        own = [row for row in rows if row["what grows"] == axis]
        names = ("step, ms", "prepare, ms", "CLIP, ms", "diffusion, ms")
        series = {name.removesuffix(", ms"): [(row["to"], row[name] / own[0][name]) for row in own] for name in names}
        across = f"{axis}, times the model's own" if axis == "size" else axis
        panels.append(Panel(f"{axis}: cost over that of {own[0]['to']:g}", across, series))
    return panels


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--quick", action="store_true", help="only the ends of each axis, once")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--model", choices=("pocket", "sd15-small", "sd15"), default="pocket")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="bf16" if cuda else "fp32")
    options = parsed(parser, arguments)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as fresh:
        host = host_of(model_folder(options.model, Path(fresh), options.device), options.device, options.dtype)
        rows = measure(host, options.quick)
    show(f"What things cost, {options.model}, {options.dtype}", rows)
    write_json(
        options.output_json,
        {"machine": machine(options.device), "model": options.model, "dtype": options.dtype, "rows": rows},
    )
    if options.plot is not None:
        save_panels(panels_of(rows), options.plot)


if __name__ == "__main__":
    main()
