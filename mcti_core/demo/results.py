"""The demo's results, for its metrics file and its report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..tokens.token_set import TokenSet

__all__ = ["EDIT", "PLAIN", "PROMPTS", "SAMPLES", "Demo"]

PLAIN = "a drawing of a {}"
EDIT = "a drawing of a red thick {} on yellow paper"
PROMPTS = {"plain": PLAIN, "edit": EDIT}
SAMPLES = 8
"""Number of images generated per class and prompt."""


@dataclass
class Demo:
    """The results of one run of the demo."""

    shots: int
    seed: int
    classes: tuple[str, ...] = ()
    support: Tensor | None = None
    """(C, shots, 3, 64, 64) the examples."""
    tokens: dict[str, TokenSet] = field(default_factory=dict)
    histories: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    queries: dict[str, int] = field(default_factory=dict)
    evaluations: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, dict[str, float]] = field(default_factory=dict)
    similarity: dict[str, dict[str, float]] = field(default_factory=dict)
    colours_right: dict[str, dict[str, float]] = field(default_factory=dict)
    judge_accuracy: float = 0.0
    confusion: Tensor | None = None
    samples: dict[str, Tensor] = field(default_factory=dict)
    """"mcti plain" and so on -> (C, SAMPLES, 3, 64, 64)."""
    seconds: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json."""
        return {
            "shots": self.shots,
            "seed": self.seed,
            "chance": 1 / len(self.classes),
            "accuracy": self.accuracy,
            "queries": self.queries,
            "unet_evaluations_per_image": self.evaluations,
            "generation_agreement": self.agreement,
            "generation_similarity": self.similarity,
            "generation_colours_right": self.colours_right,
            "judge_accuracy": self.judge_accuracy,
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
