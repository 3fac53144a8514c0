"""Measure time and memory fairly: cases take turns in one run, and medians count."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mcti_core.hosts.diffusers.loading import DTYPES

__all__ = ["Case", "Peak", "Timed", "flops_of", "interleaved", "matrix_product", "resident", "seconds"]


@dataclass(frozen=True)
class Case:
    """A timed case."""

    run: Callable[[], object]
    units: float
    """Number of units per call: samples, images or steps."""


@dataclass(frozen=True)
class Timed:
    """Seconds per unit of a case, in each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def rate(self) -> float:
        """Units per second, by the median."""
        return 1 / self.median

    @property
    def rates(self) -> str:
        """Units per second in the slowest and in the fastest round."""
        return f"{1 / max(self.rounds):.3g} to {1 / min(self.rounds):.3g}"


def interleaved(
    cases: Mapping[str, Case], repeats: int, device: str, warm: Callable[[str], object] | None = None
) -> dict[str, Timed]:
    """Time every case in rounds; in each round, every case runs once.

    Args:
        cases: in the order of their turns.
        repeats: number of rounds that count.
        device: the device to synchronise with.
        warm: called with a case's name before the first round; by default the case itself runs once and is not counted.
    """
    for name, case in cases.items():
        warm(name) if warm is not None else case.run()
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            found[name].append(seconds(case.run, device) / case.units)
    return {name: Timed(tuple(values)) for name, values in found.items()}


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall time of a call, until the device has finished it."""
    wait(device)
    started = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - started


def wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def matrix_product(device: str, dtype: str) -> Case:
    """A large matrix product in this dtype, in GFLOP, as the device's peak rate."""
    side = 8192 if torch.device(device).type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(DTYPES[dtype]) for _ in range(2))
    times = 4  # a single product is too short to measure
    return Case(lambda: [a @ b for _ in range(times)], times * 2 * side**3 / 1e9)


def flops_of(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention, forward and backward, as called."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    operations = torch.ops.aten  # torch counts attention only on GPUs
    of_processors = {
        operations._scaled_dot_product_flash_attention_for_cpu: forward,
        operations._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=of_processors) as counter:
        run()
    return int(counter.get_total_flops())


class Peak:
    """Peak memory inside the context in bytes: of the GPU, or else of this process, above its previous use.

    Measure one case per process: memory that was freed before would be reused and not counted.
    """

    def __init__(self, device: str):
        self.cuda = torch.device(device).type == "cuda"
        self.before = self.total = self.growth = 0

    def __enter__(self) -> Peak:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # reset the peak; Linux only
            self.before = resident()
        return self

    def __exit__(self, *error: object) -> None:
        self.total = torch.cuda.max_memory_allocated() if self.cuda else resident("VmHWM")
        self.growth = self.total - self.before


def resident(field: str = "VmRSS") -> int:
    """Current memory of this process in bytes, or its peak with ``"VmHWM"``. Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
