"""``mcti demo``: the whole method on real handwriting."""

from __future__ import annotations

import argparse
from typing import Any

from ..escaping import escaped
from . import argument_types as types
from .console import new_bar
from .options import add_output_dir

__all__ = ["add_demo", "run_demo"]


def add_demo(command: argparse.ArgumentParser) -> None:
    """Add the options of ``mcti demo``."""
    add_output_dir(command, "folder for report.html, metrics.json and tokens.safetensors")
    command.add_argument("--seed", type=types.seed, default=0, help="seed of the example selection and of the training")
    command.add_argument("--shots", type=types.count, default=5, help="examples per digit")


def run_demo(arguments: argparse.Namespace) -> int:
    from ..demo.run import refuse_foreign_results, run_demo
    from ..files.output_lock import lock_output
    from ..files.writing import check_writable, refuse_to_replace
    from ..hosts.diffusers.loading import quiet_libraries

    results = [arguments.output_dir / name for name in ("report.html", "metrics.json", "tokens.safetensors")]

    bars: dict[str, Any] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = new_bar(stage, "step", total)
        bars[stage].update(done - bars[stage].n)
        if done >= total:
            bars[stage].close()

    refuse_foreign_results(arguments.output_dir)
    check_writable(arguments.output_dir, (path.name for path in results))
    with lock_output(arguments.output_dir, folder=True):
        refuse_to_replace(results, overwrite=arguments.overwrite)
        quiet_libraries()
        demo = run_demo(arguments.output_dir, shots=arguments.shots, seed=arguments.seed, progress=progress)
    print(f"chance {100 / len(demo.classes):.1f}%")
    for name, share in demo.accuracy.items():
        print(f"{name} {100 * share:.1f}%")
    print(escaped(f"report: {arguments.output_dir / 'report.html'}"))
    return 0
