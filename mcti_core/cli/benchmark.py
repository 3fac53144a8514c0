"""``mcti benchmark``: the paper's table, one cell after another."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, MCTIError, listed
from ..escaping import escaped
from .benchmark_arguments import METHODS
from .console import progress_bar, say
from .option_checks import check_new_tokens
from .options import config_of, host_of, processes_of

if TYPE_CHECKING:
    from ..distributed import DistributedContext
    from ..evaluation.cells import Cell
    from ..evaluation.costs import Cost
    from ..evaluation.data_sets import ImageSet
    from ..evaluation.results import Results
    from ..evaluation.tasks import Protocol, Task
    from ..hosts.base import Host

__all__ = ["run_benchmark"]


def run_benchmark(arguments: argparse.Namespace) -> int:
    from ..evaluation.results import parts_of, read_results
    from ..evaluation.tables import comparison, plot, report
    from ..files.output_lock import lock_output
    from ..files.outputs import check_writable
    from ..files.ownership import delete_own, refuse_foreign
    from ..files.provenance import TEXT_MARK, is_marked, write_png, write_text

    if absent := [name for name in ("matplotlib", "sklearn") if find_spec(name) is None]:
        raise MCTIError(
            f"the benchmark needs {listed(absent)}; install what it needs with: pip install 'mcti[benchmark]'"
        )
    other = None if arguments.compare is None else read_results(arguments.compare)
    file, table, picture = (arguments.out / name for name in ("results.json", "table.md", "plot.png"))
    for path in (file, table, picture):
        refuse_foreign(path, is_marked)
    processes = processes_of(arguments, uneven=True)
    if not processes.is_main:
        _benchmark(arguments, file, processes)
        return 0
    check_writable(arguments.out, [file.name])
    with lock_output(arguments.out, folder=True):
        for path in (file, table, picture, *parts_of(file)) if arguments.restart else ():
            delete_own(path, is_marked)
        results = _benchmark(arguments, file, processes)
        if arguments.dry_run:
            return 0
        write_text(f"---\n{TEXT_MARK}\n---\n\n{report(results)}", table)
        write_png(plot(results), picture)
    print(report(results) if other is None else report(results) + comparison(results, other))
    print(escaped(f"the same in {arguments.out}: {file.name}, {table.name}, {picture.name}"))
    return 0


def _benchmark(arguments: argparse.Namespace, file: Path, processes: DistributedContext) -> Results:
    """Measure what is not measured yet, and keep it after every cell."""
    from ..evaluation.cells import RUNS, Cell, all_cells, measure
    from ..evaluation.costs import cost_of, measured_rates
    from ..evaluation.results import Results, merge_parts, part_path
    from ..evaluation.tasks import Protocol

    host, base = host_of(arguments, processes), config_of(arguments)
    host.need_clip()
    check_new_tokens(host, base, arguments.vectors, arguments.init)
    mirror = arguments.model is not None if arguments.mirror is None else bool(arguments.mirror)
    given = {name: getattr(arguments, name) for name in Protocol.__dataclass_fields__ if hasattr(arguments, name)}
    protocol = Protocol(**{**given, "base": base, "mirror": mirror})
    results = Results({"model": f"{host.name} {host.fingerprint}", **protocol.describe()}, _versions(host))
    if processes.is_main and not arguments.dry_run:
        merge_parts(file, results)
    tasks, results.missing = _tasks(arguments, host, protocol, processes)
    results.data |= {name: dict(task.facts) for name, task in tasks.items()}
    runs = [RUNS[METHODS.index(name)] for name in dict.fromkeys(arguments.methods)]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    cells = all_cells(tasks.values(), sorted(set(arguments.shots)), seeds, runs)
    done = {Cell(*values) for values in processes.gather([list(vars(cell).values()) for cell in results.done()])[0]}
    left = [cell for cell in cells if cell not in done]
    costs: dict[Cell, Cost] = {}
    if left:
        rates = measured_rates(max(tasks.values(), key=lambda task: len(task.names)), runs)
        costs = {cell: cost_of(cell, tasks[cell.data], rates) for cell in left}
        _say_cost(costs, len(cells), [tasks[name] for name in {cell.data for cell in left}], rates["image"], processes)
    if arguments.dry_run:
        return results
    for task in (task for task in tasks.values() if any(cell.data == task.name for cell in left)):
        with progress_bar(f"features of {escaped(task.name)}", "image", shown=processes.is_main) as progress:
            task.compute(processes, progress)
    own, finished = _share(costs, processes), 0
    with progress_bar("benchmark", "UNet call", shown=processes.is_main) as progress:
        total = sum(costs[cell].calls for cell in own)
        for cell in own:
            on_step = _counter(progress, finished, finished + costs[cell].calls, total, protocol.base.batch)
            results.cells.append(measure(tasks[cell.data], cell, on_step))
            results.save(part_path(file, processes.index))
            finished += costs[cell].calls
            progress(finished, total)
    processes.barrier()
    if processes.is_main:
        merge_parts(file, results)
    return results


def _counter(
    progress: Callable[[int, int], None], start: int, end: int, total: int, batch: int
) -> Callable[[object], None]:
    """Counts a training's calls step by step; those of a cell's drawings are counted when it is finished."""
    calls = iter(range(start, end, batch))
    return lambda info: progress(next(calls, end), total)


def _tasks(
    arguments: argparse.Namespace, host: Host, protocol: Protocol, processes: DistributedContext
) -> tuple[dict[str, Task], dict[str, str]]:
    """The data sets that are there, and why others are not; all processes agree on it."""
    from ..evaluation.data_sets import DATA_SETS
    from ..evaluation.tasks import prepared

    tasks: dict[str, Task] = {}
    missing: dict[str, str] = {}
    if not processes.is_main:
        processes.barrier()  # until the first one has downloaded
    for name in dict.fromkeys(arguments.data_sets or (BUILT_IN if arguments.model is None else DATA_SETS)):
        try:
            found = _load(name, arguments, download=arguments.download and processes.is_main)
            if found.name in tasks:
                raise MCTIError(f"another data set is called {found.name}, too; rename the folder")
            tasks[found.name] = prepared(found, host, protocol, arguments.cache)
        except MCTIError as error:
            missing[name] = str(error)
            say(f"{name} is left out: {error}", shown=processes.is_main)
    if processes.is_main:
        processes.barrier()
    there = processes.gather(list(tasks))
    tasks = {name: task for name, task in tasks.items() if all(name in names for names in there)}
    if not tasks:
        raise ConfigError("none of the data sets can be used; give --data-sets, or put them where the lines above say")
    return tasks, missing


def _load(name: str, arguments: argparse.Namespace, *, download: bool) -> ImageSet:
    from ..evaluation.data_sets import DATA_SETS, load_folder, load_known, split_by_thirds
    from ..pocket.characters import character_dataset
    from ..pocket.digits import digit_dataset
    from ..pocket.textures import texture_dataset

    if name in BUILT_IN:
        found = (digit_dataset, character_dataset, texture_dataset)[BUILT_IN.index(name)]()
        return split_by_thirds(name, found.classes, (found.images, found.labels))
    if name in DATA_SETS:
        if arguments.data is None:
            raise MCTIError("give --data, the folder that holds it")
        return load_known(name, arguments.data, download=download)
    if Path(name).is_dir():
        return load_folder(Path(name).resolve())
    raise MCTIError(f"it is neither a folder nor one of {', '.join((*DATA_SETS, *BUILT_IN))}")


BUILT_IN = ("digits", "characters", "textures")


def _share(costs: dict[Cell, Cost], processes: DistributedContext) -> list[Cell]:
    """This process's cells: the longest ones are dealt out first, each to the process with the least to do."""
    loads, own = [0] * processes.count, set()
    for cell in sorted(costs, key=lambda cell: -costs[cell].calls):
        least = loads.index(min(loads))
        loads[least] += costs[cell].calls
        if least == processes.index:
            own.add(cell)
    return [cell for cell in costs if cell in own]


def _say_cost(
    costs: dict[Cell, Cost], cells: int, tasks: list[Task], image: float, processes: DistributedContext
) -> None:
    from ..evaluation.costs import Cost

    images = sum(len(task.pool) + len(task.queries) for task in tasks)
    cost = sum(costs.values(), Cost(images, seconds=images * image))
    each = f" in each of {processes.count} processes" if processes.count > 1 else ""
    say(
        f"{len(costs)} of {cells} cells are left: {cost.images:,} images, {cost.steps:,} training steps, {cost.trained:,} UNet calls with a "
        f"backward pass and at most {cost.evaluated:,} without; {cost.seconds / 3600 / processes.count:.1f} hours{each} at the rate measured here",
        shown=processes.is_main,
    )


def _versions(host: Host) -> dict[str, str]:
    """What the figures depend on beside the settings."""
    from .. import __version__

    own = {"model": host.name, "device": str(host.device), "mcti": __version__, "Python": platform.python_version()}
    for name in ("torch", "torchvision", "diffusers", "transformers", "scikit-learn"):
        with suppress(PackageNotFoundError):
            own[name] = version(name)
    return own
