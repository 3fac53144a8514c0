"""Run inputs in a separate process to see hangs and crashes, and measure its time and memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from .properties import Inputs
from .watching import watch

__all__ = ["fuzz"]

SECONDS = 5.0
"""Of the processor that an input may take; others may keep it busy."""
HANGS = 60.0
"""By the clock."""
MEBIBYTES = {
    "token files": 256,
    "images": 3072,
    "settings": 64,
    "prompts": 64,
    "folders": 256,
    "options": 64,
    "outputs": 128,
}
"""That an input may add to the process's memory: an image of 180 million pixels is read whole."""
_STARTING = 120.0


@dataclass
class Found:
    """Of one kind of input."""

    outcomes: Counter[str] = field(default_factory=Counter)
    inputs: int = 0
    slowest: float = 0.0
    largest: float = 0.0


def fuzz(kind: str, seed: str, numbers: list[int], keep: Path) -> bool:
    """Whether the law holds of these inputs; tells what was found."""
    context, found = multiprocessing.get_context("spawn"), Found()
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / "work"
        folder.mkdir()
        ours, theirs = context.Pipe()
        child = context.Process(target=_child, args=(theirs, folder, kind, seed, numbers))
        child.start()
        theirs.close()
        begun = time.monotonic()
        wrong, number = _follow(ours, kind, numbers, found)
        if wrong:
            child.kill()
        child.join()
        if wrong:
            if (folder / "given").exists():
                shutil.copytree(folder / "given", keep, dirs_exist_ok=True)
            print(
                f"\n{kind} {number} of seed {seed}: {wrong}\nkept in {keep}; again: --seed {seed} --only {number}",
                file=sys.stderr,
            )
    print(
        f"{kind}: {found.inputs:,} in {time.monotonic() - begun:.0f} s; slowest {found.slowest:.2f} s; largest {found.largest:.0f} MiB"
    )
    for name, count in sorted(found.outcomes.items()):
        print(f"    {name:30} {count:7,}", flush=True)
    return not wrong


def _follow(pipe: Connection, kind: str, numbers: list[int], found: Found) -> tuple[str, int]:
    """What went wrong, if anything, and with which input."""
    wait = _STARTING
    for number in [-1, *numbers]:
        try:
            if not pipe.poll(wait):
                return f"still not done after {wait:.0f} s", number
            outcomes, seconds, largest, wrong = pipe.recv()
        except EOFError:
            return "the process ended", number
        wait = HANGS
        if number < 0:
            continue
        found.outcomes.update(outcomes)
        found.inputs += 1
        found.slowest, found.largest = max(found.slowest, seconds), max(found.largest, largest)
        if wrong or seconds > SECONDS or largest > MEBIBYTES[kind]:
            return wrong or f"took {seconds:.1f} s and {largest:.0f} MiB", number
    return "", -1


def _child(pipe: Connection, folder: Path, kind: str, seed: str, numbers: list[int]) -> None:
    meter = _Meter()
    inputs = Inputs(folder, meter.begin)
    os.chdir(folder)
    inputs.one(kind, "warm up")  # what is loaded with the first is no input's fault
    _limit()
    watch(folder)
    pipe.send(([], 0.0, 0.0, ""))
    for number in numbers:
        wrong = ""
        try:
            outcomes = inputs.one(kind, f"{seed} {kind} {number}")
        except Exception as error:
            outcomes, wrong = [f"{type(error).__name__}!"], traceback.format_exc()
        pipe.send((outcomes, *meter.end(), wrong))


class _Meter:
    """Time and memory from an input's beginning on."""

    def begin(self) -> None:
        with contextlib.suppress(OSError):  # on another system it stays the peak of the whole process
            Path("/proc/self/clear_refs").write_text("5")
        self.before, self.begun = _memory("VmRSS"), time.process_time()

    def end(self) -> tuple[float, float]:
        """Seconds of the processor, and MiB."""
        seconds = time.process_time() - self.begun
        return seconds, max(0.0, _memory("VmHWM") - self.before)


def _memory(what: str) -> float:
    """MiB of this process; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def _limit() -> None:
    """What asks for far too much gets a MemoryError, and not the whole machine."""
    if sys.platform == "linux":
        import resource

        room = int((_memory("VmSize") + 8192) * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
