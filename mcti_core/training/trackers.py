"""Log a training with Hugging Face Accelerate's trackers or to a CSV file."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..files.regular import open_regular
from ..files.writing import write_own
from . import TRACKERS
from .config import TrainConfig
from .errors import TrainingError
from .loop import StepInfo
from .schedules import gamma_at, learning_rate

__all__ = ["TRACKERS", "CsvTracker", "Trackers", "check_trackers", "is_log"]

_STEPS_PER_READ = 50
"""Number of steps between reads of the losses. Each read waits for the device."""
_HEAD_BYTES = 400
"""Number of bytes that contain the header and the first row."""
_COLUMNS = ("step", "learning_rate", "loss", "reconstruction", "classification", "gamma", "accuracy")


def check_trackers(names: Sequence[str]) -> None:
    """Raise a ``ConfigError`` if a package that these trackers need is not installed."""
    for name in names:
        for package in () if name == "csv" else (name, "accelerate"):
            if find_spec(package) is None:
                raise ConfigError(
                    f"the tracker {name} needs the package {package}; pip install {package}, or choose csv"
                )


def is_log(path: Path) -> bool:
    """Whether ``CsvTracker`` wrote the file: its header, then the row of step 1, which may be cut off."""
    try:
        with open_regular(path) as file:
            head, first, *_ = [*(file.read(_HEAD_BYTES) or b"").decode().split("\n"), ""]
    except (OSError, ValueError):
        return False
    return head == ",".join(_COLUMNS) and (not first or re.fullmatch(r"1,[-+.e\d,]*", first) is not None)


class CsvTracker:
    """Writes one row per step to ``log.csv``, with the interface of ``accelerate.tracking.GeneralTracker``."""

    name = "csv"

    def __init__(self, folder: Path):
        self.path = write_own(folder / "log.csv", lambda file: self._append(file, _COLUMNS), is_log)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._append(self.path, [step, *(values.get(name, "") for name in _COLUMNS[1:])])

    def finish(self) -> None:
        pass

    @staticmethod
    def _append(path: Path, row: Sequence[object]) -> None:
        with open(path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)


class Trackers:
    """Logs learning rate, losses and gamma of every step, including the steps before a resume.

    A tracker that fails is reported and no longer used; training continues. Leaving the context logs the remaining steps.

    Args:
        folder: folder of ``log.csv`` and of TensorBoard's ``logs``.
        log: called with a message when a tracker fails.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, config: TrainConfig, *, log: Callable[[str], object] = print
    ):
        self.config, self.log, self.open = config, log, dict[str, Any]()
        self._steps_logged = 0
        self._last_step: StepInfo | None = None
        for name in names:
            self._try(name, lambda name: self.open.update({name: _open_tracker(name, folder, config)}))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(TrainingError):
            if self._last_step is not None:
                self._log(self._last_step.history())
        self._each(methodcaller("finish"))

    def on_step(
        self, info: StepInfo, accuracy: float | None = None, images: Mapping[str, Sequence[Tensor]] | None = None
    ) -> None:
        """Log the new steps, at most every 50 steps unless there is a held-out accuracy or an image. Call it after each step.

        Args:
            images: name -> samples (3, H, W) in [0, 1] after this step, if drawn.
        """
        self._last_step = info
        measured = accuracy is not None or bool(images)
        if self.open and (measured or info.step % _STEPS_PER_READ == 0 or info.step == info.total):
            self._log(info.history(), accuracy)
            if images:
                self._each(partial(_log_images, images=images, step=info.step))

    def _log(self, history: Mapping[str, Sequence[float]], accuracy: float | None = None) -> None:
        """Log the new steps of the history; the accuracy belongs to the last step."""
        steps = len(history["loss"])
        for step in range(self._steps_logged, steps):
            values = {name: column[step] for name, column in history.items()}
            values["learning_rate"] = learning_rate(self.config, step)
            if not self.config.adaptive:
                values["gamma"] = gamma_at(self.config, step)
            if accuracy is not None and step == steps - 1:
                values["accuracy"] = accuracy
            computed = {name: value for name, value in values.items() if math.isfinite(value)}
            self._each(methodcaller("log", computed, step=step + 1))
        self._steps_logged = steps

    def _each(self, call: Callable[[Any], object]) -> None:
        for name in list(self.open):
            self._try(name, lambda name: call(self.open[name]))

    def _try(self, name: str, call: Callable[[str], object]) -> None:
        try:
            call(name)
        except Exception as error:  # for example a full disk, or no connection
            self.open.pop(name, None)
            self.log(f"the tracker {name} is no longer used: {str(error)[:300] or type(error).__name__}")


def _open_tracker(name: str, folder: Path, config: TrainConfig) -> Any:
    if name == CsvTracker.name:
        return CsvTracker(folder)
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    PartialState()  # Accelerate's own logger requires it
    if name == "tensorboard":
        tracker = TensorBoardTracker(folder.name or "mcti", folder / "logs")
    else:
        tracker = WandBTracker("mcti", name=folder.name or None, dir=str(folder))
    if hasattr(tracker, "start"):  # earlier versions of Accelerate start in the constructor
        tracker.start()
    settings = config.describe().items()
    tracker.store_init_configuration({key: v if isinstance(v, int | float | str) else str(v) for key, v in settings})
    return tracker


def _log_images(tracker: Any, images: Mapping[str, Sequence[Tensor]], step: int) -> None:
    if tracker.name != CsvTracker.name:
        arrays = {name: torch.stack([*v]).movedim(1, -1).mul(255).round().byte().numpy() for name, v in images.items()}
        tracker.log_images(arrays, step=step, **({"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}))
