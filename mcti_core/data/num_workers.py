"""How many threads read images ahead of the models."""

from __future__ import annotations

import os

__all__ = ["usual_readers"]

_MOST = 8


def usual_readers(processes: int = 1) -> int:
    """As many as this machine has cores for each of the processes on it, and at most 8.

    Args:
        processes: those on this machine alone, since each machine has its own cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST, cores // processes))
