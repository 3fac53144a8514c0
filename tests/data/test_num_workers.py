import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from mcti_core.data import image_stream
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.data.image_stream import default_num_workers
from mcti_core.distributed import DistributedContext


@pytest.fixture(params=["affinity", "count"])
def cores(request, monkeypatch):
    """A machine of 6 cores, whether the system names those that the process may use or not."""
    if request.param == "affinity":
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 6, 10_000])
def test_usual_readers_of_all_processes_of_a_machine_are_no_more_than_its_cores(cores, processes):
    readers = default_num_workers(processes)
    assert readers >= 1
    assert readers * processes <= max(6, processes)


def test_usual_readers_on_a_large_machine_are_eight(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)), raising=False)
    assert default_num_workers() == 8


def test_feature_cache_of_several_machines_counts_only_this_machines_processes(tiny_host, dataset, cores, monkeypatch):
    """Eight processes on four machines are two here: each has half of the cores, and not an eighth."""
    asked = []

    class Alone(DistributedContext):
        def share(self, items):
            return slice(0, items)

        def any(self, flag):
            return flag

        def all_gather_rows(self, rows):
            return rows

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers, **options):
            asked.append(workers)
            super().__init__(workers, **options)

    monkeypatch.setattr(image_stream, "ThreadPoolExecutor", Pool)
    FeatureCache.build(tiny_host, dataset, processes=Alone(index=0, count=8, local_count=2))
    assert asked == [3]
