"""Threads instead of processes, for tests that do not depend on the communication."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from mcti_core.distributed import DistributedContext

__all__ = ["Beside", "together"]

SECONDS = 60
"""Then something waits for one that does not come."""


@dataclass(frozen=True)
class Beside(DistributedContext):
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


def together(count: int, work: Callable[[DistributedContext], Any]) -> list[Any]:
    """What each of so many returns."""
    told, meeting = [None] * count, threading.Barrier(count)

    def one(index: int) -> Any:
        try:
            return work(Beside(index, count, told=told, meeting=meeting))
        except BaseException:
            meeting.abort()  # so that the others end at once, and the first error is the one that is seen
            raise

    with ThreadPoolExecutor(count) as pool:
        jobs = [pool.submit(one, index) for index in range(count)]
    failed = [error for job in jobs if (error := job.exception()) is not None]
    for error in sorted(failed, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [job.result() for job in jobs]
