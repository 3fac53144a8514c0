"""Measure the diffusion classifier's budget: the number of evaluations that give the decisions of all classes on all pairs.

Usage: python -m benchmarks.decisions [--output-json FILE] [--plot FILE] [--omniglot ZIP] [--tables FOLDER] [--num-trials 64] [--threads N] [--quick]

Pocket checkpoint, tokens of five examples per class. The errors of all classes on all pairs are computed once (``decision_tables.py``; half
an hour on one idle core, stored in --tables), and each strategy is replayed on them. The order of the pairs is random, so each strategy is
replayed in several orders in which the first pairs are always spread over the noise levels. Without --omniglot only the digits are measured.
Counts and decisions do not depend on the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from mcti_core.classifiers.cascade import MARGIN, SHORTLIST
from mcti_core.classifiers.sequential_test import best_class, sequential_elimination
from mcti_core.hosts.diffusers.loading import quiet_libraries
from mcti_core.pocket import load_pocket

from .decision_tables import ALPHABET, DIGITS, TUNING, Table, Task, make_table
from .line_plots import Panel, save_panels
from .report import machine, parsed, show, write_json

ERRORS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
STAGES = ((6, 4), (12, 2), (24, 1))
"""The elimination that the sequential test replaced: number of pairs -> number of remaining classes."""
WEIGHTS = (0.5, 1.0, 2.0, 4.0)

Strategy = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(N, C, P) errors -> decisions (N,), evaluations (N,)."""


def sequential(error: float) -> Strategy:
    """The library's own sequential test at an error level."""

    def run(errors: Tensor) -> tuple[Tensor, Tensor]:
        every = torch.ones(errors.shape[:2], dtype=torch.bool)
        found, seen = sequential_elimination(
            lambda going, start, end: errors[going][:, start:end], every, errors.shape[2], error
        )
        return best_class(found, seen), seen.sum(1)

    return run


def first(pairs: int) -> Strategy:
    """All classes on the first few pairs."""
    return lambda errors: (
        errors[..., :pairs].mean(2).argmin(1),
        torch.full((len(errors),), pairs * errors.shape[1]),
    )


def staged(errors: Tensor) -> tuple[Tensor, Tensor]:
    """The fixed elimination of ``STAGES``."""
    alive, spent, done = torch.ones(errors.shape[:2], dtype=torch.bool), 0, 0
    for pairs, keep in STAGES:
        spent, done = spent + int(alive[0].sum()) * (pairs - done), pairs
        ranked = errors[..., :pairs].mean(2).masked_fill(~alive, torch.inf).argsort(1)[:, :keep]
        alive = torch.zeros_like(alive).scatter_(1, ranked, True)
    return ranked[:, 0], torch.full((len(errors),), spent)


def orders(pairs: int, count: int) -> list[Tensor]:
    """Orders of the pairs: XOR with a number keeps the first n of van der Corput's sequence spread out."""
    size = 1 << (pairs - 1).bit_length()
    masks = torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count].tolist()
    mixed = [torch.arange(size) ^ mask for mask in [0, *[mask for mask in masks if mask]][:count]]
    return [order[order < pairs] for order in mixed]


def tried_out(name: str, strategy: Strategy, tables: Sequence[Table], repeats: int) -> dict[str, Any]:
    """Means over images and orders, in percent; ``+-`` is twice the standard error over the distinct images."""
    same, right, spent = [], [], []
    for table in tables:
        full, ways = table.errors.mean(2).argmin(1), orders(table.errors.shape[2], repeats)
        found = [strategy(table.errors[..., order]) for order in ways]
        same.append(torch.stack([decided == full for decided, _ in found]).float().mean(0))  # (N,)
        right.append(torch.stack([decided == table.labels for decided, _ in found]).float().mean(0))
        spent.append(torch.stack([evaluations for _, evaluations in found]).float().mean(0))
    agreement, spent_each = torch.cat(same), torch.cat(spent).mean().item()
    return {
        "strategy": name,
        "same decision": round(100 * agreement.mean().item(), 2),
        "+-": round(200 * standard_error(agreement, torch.cat([table.images for table in tables])), 2),
        "evaluations": round(100 * spent_each / tables[0].errors[0].numel(), 2),
        "right": round(100 * torch.cat(right).mean().item(), 2),
        "evaluations per image": round(spent_each, 1),
    }


def standard_error(values: Tensor, images: Tensor) -> float:
    """Standard error of the mean of (N,) values, of which those of the same image are not independent.

    References:
        Liang and Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 73(1), 1986: the sum over
        clusters of squared sums of residuals.
    """
    _, cluster = images.unique(return_inverse=True)
    sums = torch.zeros(int(cluster.max()) + 1).index_add_(0, cluster, values - values.mean())
    return (sums.square().sum().sqrt() / len(values)).item()


def budget_rows(tables: Sequence[Table], repeats: int) -> list[dict[str, Any]]:
    pairs = tables[0].errors.shape[2]
    fewer = [count for count in (4, 8, 12, 16, 24, 32, 48, 64, 128) if count <= pairs]
    rows = [tried_out(f"all classes, {count} pairs", first(count), tables, repeats) for count in fewer]
    if pairs >= STAGES[-1][0]:
        rows.append(tried_out("fixed stages", staged, tables, repeats))
    return rows + [tried_out(f"sequential, error {error:g}", sequential(error), tables, repeats) for error in ERRORS]


def cascade_rows(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """CLIP, diffusion, a shortlist decided by diffusion, and the sum of both if CLIP is in doubt; one column per seed."""
    rows: dict[str, list[float]] = {}
    for table in tables:
        clip, diffusion = table.clip, -100 * table.errors.mean(2)
        best = clip.topk(SHORTLIST, 1)
        listed = torch.full_like(clip, -1e6).scatter_(1, best.indices, 0.0)
        doubtful = best.values[:, :1] - best.values[:, 1:2] < MARGIN
        ways = {"CLIP": clip, "diffusion": diffusion, f"diffusion among CLIP's best {SHORTLIST}": listed + diffusion}
        for weight in WEIGHTS:
            ways[f"CLIP + {weight:g} x diffusion, in doubt"] = clip + doubtful * (listed + weight * diffusion)
        for name, scores in ways.items():
            right = (scores.argmax(1) == table.labels).float().mean().item()
            rows.setdefault(name, []).append(round(100 * right, 2))
        rows.setdefault("(images in doubt)", []).append(round(100 * doubtful.float().mean().item(), 2))
    return [
        {"classifier": name, "mean": round(mean(each), 2), **{f"seed {i}": value for i, value in enumerate(each)}}
        for name, each in rows.items()
    ]


def curve(name: str, rows: Sequence[dict[str, Any]]) -> Panel:
    """Plot the share of different decisions over the share of evaluations."""

    def points(start: str) -> list[tuple[float, float]]:
        chosen = [row for row in rows if row["strategy"].startswith(start)]
        return sorted((row["evaluations"], 100 - row["same decision"]) for row in chosen)

    series = {"all classes, fewer pairs": points("all classes"), "fixed stages": points("fixed")}
    series["sequential test"] = points("sequential")
    return Panel(
        f"{name}: decisions changed, %", "evaluations, % of the full budget", {k: v for k, v in series.items() if v}
    )


def shown(row: dict[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else f"{value:.1f}" for name, value in row.items()}


def measure(tasks: Sequence[Task], arguments: argparse.Namespace) -> dict[str, Any]:
    host, found = load_pocket(), {}
    for task in tasks:
        tables = [
            make_table(
                host, task, seed, arguments.num_trials,
                folder=arguments.tables, omniglot=arguments.omniglot, steps=20 if arguments.quick else None,
            )
            for seed in task.seeds
        ]  # fmt: skip
        budget, cascade = budget_rows(tables, arguments.orders), cascade_rows(tables)
        asked = torch.cat([table.images for table in tables])
        images = {"asked": len(asked), "distinct": len(asked.unique())}
        show(
            f"{task.name}: {images['asked']} images ({images['distinct']} distinct ones), seeds {task.seeds}, "
            f"full budget {arguments.num_trials} pairs; percent",
            [shown(row) for row in budget],
        )
        show(f"{task.name}: CLIP and diffusion together; percent of images right", [shown(row) for row in cascade])
        found[task.name] = {"images": images, "seeds": task.seeds, "budget": budget, "cascade": cascade}
    return found


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, help="draw the trade-off here (PNG)")
    parser.add_argument("--omniglot", type=Path, help="images_background_small1.zip: the held-out alphabet too")
    parser.add_argument("--tables", type=Path, help="folder where the errors are kept for the next run")
    parser.add_argument("--num-trials", type=int, default=64, help="P, the full budget")
    parser.add_argument("--orders", type=int, default=8, help="orders of the pairs to replay")
    parser.add_argument("--quick", action="store_true", help="ten digits, 16 pairs, little training: under a minute")
    arguments = parsed(parser, given)
    tasks: list[Task] = [TUNING, DIGITS, ALPHABET] if arguments.omniglot else [DIGITS]
    if arguments.quick:
        arguments.num_trials, arguments.tables, tasks = 16, None, [Task(DIGITS.name, (0,), 1)]
    quiet_libraries()
    found = measure(tasks, arguments)
    write_json(
        arguments.output_json,
        {"machine": machine("cpu"), "pairs": arguments.num_trials, "orders": arguments.orders, **found},
    )
    if arguments.plot is not None:
        save_panels([curve(name, part["budget"]) for name, part in found.items()], arguments.plot)


if __name__ == "__main__":
    main()
