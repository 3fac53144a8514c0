"""Threads in the place of processes, for what does not depend on how they reach one another."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from mcti_core.processes import Processes

__all__ = ["Beside", "together"]

SECONDS = 60
"""Then something waits for one that does not come."""


@dataclass(frozen=True)
class Beside(Processes):
    """One of several threads."""

    told: list[Any] = field(default_factory=list)
    meeting: Any = None

    def gather(self, value):
        self.told[self.index] = value
        self.meeting.wait(SECONDS)
        told = list(self.told)
        self.meeting.wait(SECONDS)
        return told

    def any(self, flag):
        return any(self.gather(flag))

    def all_reduce_sum(self, tensors):
        added = [sum(each) for each in zip(*self.gather([tensor.detach().clone() for tensor in tensors]), strict=True)]
        for tensor, total in zip(tensors, added, strict=True):
            tensor.detach().copy_(total)

    def all_gather_rows(self, rows):
        parts = self.gather(rows)
        return torch.cat([part for part in parts if len(part)])


def together(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """What each of so many returns."""
    told, meeting = [None] * count, threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        jobs = [pool.submit(work, Beside(index, count, told=told, meeting=meeting)) for index in range(count)]
        return [job.result() for job in jobs]
