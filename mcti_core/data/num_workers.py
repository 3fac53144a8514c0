"""How many threads read images ahead of the models."""

from __future__ import annotations

import os

__all__ = ["default_num_workers"]

_MOST = 8


def default_num_workers(processes: int = 1) -> int:
    """As many as this machine has cores for each of the processes on it, and at most 8.

    Args:
        processes: those on this machine alone, since each machine has its own cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST, cores // processes))
