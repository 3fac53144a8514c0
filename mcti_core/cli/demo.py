"""``mcti demo``: the whole method on real handwriting."""

from __future__ import annotations

import argparse
from typing import Any

from ..demo.run import run_stages
from ..escaping import escaped
from ..files.output_lock import lock_output
from ..files.provenance import check_outputs
from ..files.writing import refuse_to_replace
from ..hosts.diffusers.loading import quiet_libraries
from ..tokens.io import refuse_foreign_tokens
from .console import new_bar

__all__ = ["run_demo"]


def run_demo(arguments: argparse.Namespace) -> int:
    out = arguments.output_dir
    tokens = out / "tokens.safetensors"
    bars: dict[str, Any] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = new_bar(stage, "step", total)
        bars[stage].update(done - bars[stage].n)
        if done >= total:
            bars[stage].close()

    with lock_output(out, folder=True):
        refuse_foreign_tokens([tokens], sets=True)
        refuse_to_replace([tokens], overwrite=arguments.overwrite)
        check_outputs([out / "report.html", out / "metrics.json"], overwrite=arguments.overwrite)
        quiet_libraries()
        demo = run_stages(out, shots=arguments.shots, seed=arguments.seed, progress=progress)
    print(f"chance {100 / len(demo.classes):.1f}%")
    for name, share in demo.accuracy.items():
        print(f"{name} {100 * share:.1f}%")
    print(escaped(f"report: {out / 'report.html'}"))
    return 0
