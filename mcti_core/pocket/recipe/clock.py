"""A stage's clock: it runs for so many seconds, warms up, and decays to its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Tick", "ticks"]


@dataclass(frozen=True)
class Tick:
    step: int
    fraction: float
    """Share of the stage's time that has passed, in [0, 1)."""
    scale: float
    """Learning-rate factor: linear warm-up, flat, then linear decay."""
    seconds: float


def ticks(seconds: float, *, warmup: int = 50, flat: float = 0.3) -> Iterator[Tick]:
    """Yield a tick a step until the time is over. Time spent in a stopped process does not count."""
    passed, last, step = 0.0, time.monotonic(), 0
    while True:
        now = time.monotonic()
        passed, last = passed + min(now - last, 30.0), now
        fraction = passed / seconds
        if fraction >= 1:
            return
        decay = 1.0 if fraction < flat else max(0.01, (1 - fraction) / (1 - flat))
        yield Tick(step, fraction, min(1.0, (step + 1) / warmup) * decay, passed)
        step += 1
