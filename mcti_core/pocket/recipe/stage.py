"""Run the steps of a stage with a learning-rate schedule, resumable to the bit on the same machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

__all__ = ["Stage", "Stateful", "Tick"]

_SAVE_EVERY = 150.0


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> object: ...


@dataclass(frozen=True)
class Tick:
    step: int
    fraction: float
    """Share of finished steps, in [0, 1)."""
    scale: float
    """Learning-rate factor: linear warm-up, constant, then linear decay."""
    seconds: float
    """Seconds since this process started the stage."""


@dataclass(frozen=True)
class Stage:
    """The file with a stage's state, and its number of steps.

    All random numbers of a stage come from torch's default generator, whose state is saved too.
    """

    path: Path
    steps: int
    seed: int = 0

    def ticks(self, parts: Mapping[str, Stateful], *, warmup: int = 50, flat: float = 0.3) -> Iterator[Tick]:
        """Yield one tick per step, from the saved state on; the state is saved every few minutes and after the last step."""
        first = 0
        torch.manual_seed(self.seed)
        if self.path.exists():
            stored = torch.load(self.path, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(stored[name])
            torch.set_rng_state(stored["random"])
            first = stored["step"]
        begun = saved = time.monotonic()
        for step in range(first, self.steps):
            if time.monotonic() - saved > _SAVE_EVERY:
                self._save(step, parts)
                saved = time.monotonic()
            fraction = step / self.steps
            decay = 1.0 if fraction < flat else max(0.01, (1 - fraction) / (1 - flat))
            yield Tick(step, fraction, min(1.0, (step + 1) / warmup) * decay, time.monotonic() - begun)
        self._save(self.steps, parts)

    def _save(self, step: int, parts: Mapping[str, Stateful]) -> None:
        state = {name: part.state_dict() for name, part in parts.items()}
        temporary = self.path.with_suffix(".new")
        with temporary.open("wb") as file:
            torch.save({"step": step, "random": torch.get_rng_state(), **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
