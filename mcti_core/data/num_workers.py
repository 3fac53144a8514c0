"""Number of threads that prefetch images."""

from __future__ import annotations

import os

__all__ = ["default_num_workers"]

_MAX_WORKERS = 8


def default_num_workers(processes: int = 1) -> int:
    """The number of cores per process on this machine, at most 8.

    Args:
        processes: number of processes on this machine only, since each machine has its own cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MAX_WORKERS, cores // processes))
