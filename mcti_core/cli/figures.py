"""Measurements of a training for the model card."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import MCTIError

if TYPE_CHECKING:
    from ..hosts.base import Host
    from ..training.loop import TrainResult

__all__ = ["OUTCOMES", "training_figures"]

OUTCOMES = {"max_steps": "finished", "early_stop": "stopped early", "interrupted": "interrupted"}
"""Words of the last line, by ``TrainResult.stop_reason``."""


def training_figures(host: Host, result: TrainResult) -> dict[str, str]:
    """Name -> value: steps, mean losses of the last tenth, and the number of examples that leave-one-out recognises."""
    from ..classifiers.calibration import calibrate
    from ..classifiers.clip import ClipClassifier

    if not result.steps:
        return {}
    figures = {"steps": str(result.steps)}
    for name in ("reconstruction", "classification"):
        last = [value for value in result.history.get(name, ())[-max(1, result.steps // 10) :] if math.isfinite(value)]
        if last:
            figures[f"{name} loss, mean of the last {len(last)} steps"] = f"{sum(last) / len(last):.4g}"
    with suppress(MCTIError):  # a measurement must not prevent saving the set
        found = calibrate(ClipClassifier(host, result.tokens), result.tokens)
        if found.num_samples:
            figures["examples recognised by CLIP, each judged as if it were new"] = (
                f"{found.recognised} of {found.num_samples}"
            )
    return figures
