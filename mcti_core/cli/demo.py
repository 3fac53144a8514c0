"""``mcti demo``: the whole method on real handwriting."""

from __future__ import annotations

import argparse
from typing import Any

from ..demo.run import refuse_foreign_results, run_stages
from ..escaping import escaped
from ..files.output_lock import lock_output
from ..files.writing import check_writable, refuse_to_replace
from ..hosts.diffusers.loading import quiet_libraries
from .console import new_bar

__all__ = ["run_demo"]


def run_demo(arguments: argparse.Namespace) -> int:
    out = arguments.output_dir
    results = [out / name for name in ("report.html", "metrics.json", "tokens.safetensors")]
    bars: dict[str, Any] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = new_bar(stage, "step", total)
        bars[stage].update(done - bars[stage].n)
        if done >= total:
            bars[stage].close()

    with lock_output(out, folder=True):
        refuse_foreign_results(out)
        refuse_to_replace(results, overwrite=arguments.overwrite)
        check_writable(out, (path.name for path in results))
        quiet_libraries()
        demo = run_stages(out, shots=arguments.shots, seed=arguments.seed, progress=progress)
    print(f"chance {100 / len(demo.classes):.1f}%")
    for name, share in demo.accuracy.items():
        print(f"{name} {100 * share:.1f}%")
    print(escaped(f"report: {out / 'report.html'}"))
    return 0
