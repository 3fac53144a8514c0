"""Kill real trainings at random moments, resume each until it is finished, and compare with an undisturbed one.

    python -m tests.end_to_end.kill_and_resume --kills 100

Every process is ``python -m mcti_core train`` with the pocket checkpoint, saving after every step, so that many of the kills
(SIGKILL, which no program can answer) meet a save. Half of them wait for one.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mcti_core.data.dataset import FewShotDataset
from mcti_core.pocket.digits import digit_masks, draw_digits, write_class_folders
from mcti_core.tokens.io import load_tokens
from mcti_core.training.checkpoint import load_checkpoint

__all__ = ["Trial", "write_examples"]

ROOT = Path(__file__).parents[2]
STEPS = 60
_SECONDS = 1.2
"""Of training between two kills at most."""
_STARTING = 0.1
"""Share of kills that do not wait for the first step of a process."""


def write_examples(folder: Path) -> Path:
    """Three digits, three images of each."""
    masks, labels = digit_masks()
    chosen = torch.cat([(labels == digit).nonzero()[:3, 0] for digit in range(3)])
    images = tuple(draw_digits(masks[chosen]))
    write_class_folders(FewShotDataset(("0", "1", "2"), images, labels[chosen]), folder)
    return folder


@dataclass
class Trial:
    """``run`` fills in what was found.

    Args:
        folder: an empty one.
        seed: of the moments.
        kills: how many.
    """

    folder: Path
    seed: int
    kills_wanted: int = field(kw_only=True)
    runs: int = 0
    """Trainings that were begun, each until it was done."""
    same: int = 0
    """Those whose tokens, losses and settings were those of the training that was left alone."""
    kills: int = 0
    in_saves: int = 0
    """Kills that left the temporary file of a save behind."""
    while_starting: int = 0
    """Kills before the first step of a process."""
    lost: int = 0
    """Steps that had been shown as done, and had to be done again."""
    seconds: float = 0.0

    def run(self, tell: bool = False) -> Trial:
        began, moments = time.monotonic(), random.Random(self.seed)
        write_examples(self.folder / "examples")
        whole = self.folder / "whole"
        assert Process(self.folder / "examples", whole).process.wait() == 0
        while self.kills < self.kills_wanted:
            out = self.folder / f"run-{self.runs}"
            self._one_training(out, moments)
            self.runs += 1
            self.same += _same(out, whole)
            self.seconds = time.monotonic() - began
            if tell:
                print(self.told(), flush=True)
        return self

    def told(self) -> str:
        return (
            f"{self.kills} kills ({self.in_saves} in the middle of a save, {self.while_starting} before a process's first step) "
            f"in {self.runs} trainings: {self.same} of {self.runs} ended in the same tokens to the bit; {self.lost} steps shown "
            f"as done were lost; {self.seconds:.0f} s"
        )

    def _one_training(self, out: Path, moments: random.Random) -> None:
        kept = out / "training.safetensors"
        steps = 0
        while True:
            process = Process(self.folder / "examples", out)
            if self.kills < self.kills_wanted:
                self._kill(process, out, moments)
            code = process.process.wait()
            process.reader.join()
            if code == 0:
                return
            assert code == -9, process.said
            self.kills += 1
            self.while_starting += not process.steps
            leftovers = list(out.glob(".mcti-*.tmp"))
            self.in_saves += bool(leftovers)
            for file in leftovers:
                file.unlink()
            if process.steps == STEPS and not kept.exists():  # it was done, and its tokens must be there
                assert _same(out, self.folder / "whole")
                steps = 0
                continue
            stood = load_checkpoint(kept).step if kept.exists() else 0  # it is never damaged
            assert stood >= steps, f"{steps} steps were kept, now {stood} are"
            self.lost += max(0, process.steps - stood)
            steps = stood

    def _kill(self, process: Process, out: Path, moments: random.Random) -> None:
        waits, meets_save = moments.random() >= _STARTING, moments.random() < 0.5
        pause = moments.uniform(0, _SECONDS if waits else 3.0)
        while waits and not process.steps and process.running():
            time.sleep(0.002)
        until = time.monotonic() + pause
        while time.monotonic() < until and process.running():
            time.sleep(0.002)
        while meets_save and waits and process.running() and not list(out.glob(".mcti-*.tmp")):
            time.sleep(0.0005)
        process.process.kill()


class Process:
    """A training, and how many steps it says it has done."""

    def __init__(self, examples: Path, out: Path):
        options = ["--steps", str(STEPS), "--batch-size", "2", "--resume", "--save-every", "0"]
        command = [sys.executable, "-m", "mcti_core", "train", str(examples), "--output-dir", str(out), *options]
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "TQDM_MININTERVAL": "0"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self.said, self.steps = "", 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def running(self) -> bool:
        return self.process.poll() is None

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            while part := os.read(stream.fileno(), 4096):
                self.said += part.decode(errors="replace")
                shown = re.findall(rf"training:.*? (\d+)/{STEPS} ", self.said[-4096:])
                self.steps = int(shown[-1]) if shown else self.steps


def _same(first: Path, second: Path) -> bool:
    one, other = (load_tokens(folder / "tokens.safetensors") for folder in (first, second))
    vectors = all(torch.equal(one.vectors[name], v) for name, v in other.vectors.items())
    losses = (first / "loss.png").read_bytes() == (second / "loss.png").read_bytes()
    return vectors and losses and one.training == other.training and not (first / "training.safetensors").exists()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill real trainings at random moments, and go on with each.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as empty:
        trial = Trial(Path(empty), arguments.seed, kills_wanted=arguments.kills).run(tell=True)
    sys.exit(0 if trial.same == trial.runs and not trial.lost else 1)
