"""``mcti benchmark``: measure the paper's table cell by cell."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, repeat
from pathlib import Path

from .. import __version__
from ..distributed import DistributedContext
from ..errors import ConfigError, MCTIError
from ..escaping import escaped
from ..evaluation.cells import RUNS, Cell, all_cells, measure
from ..evaluation.costs import Cost, cost_of, measured_rates
from ..evaluation.data_sets import DATA_SETS, ImageSet, load_folder, load_known, split_by_thirds
from ..evaluation.results import Results, merge_parts, read_results
from ..evaluation.tables import comparison, plot, report
from ..evaluation.tasks import Protocol, Task, prepared
from ..files.output_lock import lock_output
from ..files.provenance import TEXT_MARK, check_outputs, is_marked, library_versions, write_png, write_text
from ..files.writing import delete_own, part_path, parts_of, refuse_foreign
from ..hosts.base import Host
from ..pocket.characters import character_dataset
from ..pocket.digits import digit_dataset
from ..pocket.textures import texture_dataset
from .arguments import BUILT_IN, METHODS
from .console import progress_bar, say
from .options import check_new_tokens, config_of, hflip_of, host_of, processes_of

__all__ = ["run_benchmark"]


def run_benchmark(arguments: argparse.Namespace) -> int:
    _check_matplotlib()
    other = None if arguments.compare is None else read_results(arguments.compare)
    outputs = file, table, picture = [arguments.output_dir / name for name in ("results.json", "table.md", "plot.png")]
    for path in outputs:  # in every process, or the others would wait for a main process that has stopped
        refuse_foreign(path, is_marked)
    processes = processes_of(arguments, uneven=True)
    if not processes.is_main:
        _benchmark(arguments, file, processes)
        return 0
    check_outputs(outputs, overwrite=True)
    with lock_output(arguments.output_dir, folder=True):
        for path in (*outputs, *parts_of(file)) if arguments.restart else ():
            delete_own(path, is_marked)
        results = _benchmark(arguments, file, processes)
        if arguments.dry_run:
            return 0
        text = report(results)
        write_text(f"---\n{TEXT_MARK}\n---\n\n{text}", table)
        write_png(plot(results), picture)
    print(text if other is None else text + comparison(results, other))
    print(escaped(f"the same in {arguments.output_dir}: {file.name}, {table.name}, {picture.name}"))
    return 0


def _check_matplotlib() -> None:
    """Raise an ``MCTIError`` if matplotlib cannot be imported, which a ``matplotlibrc`` in the current folder may cause."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MCTIError("the benchmark needs matplotlib; install it with: pip install 'mcti[benchmark]'") from error
    except Exception as error:  # of many types
        reason = f"matplotlib cannot be started ({error!s:.200})"
        raise MCTIError(f"{reason}; is there a matplotlibrc in this folder?") from error


def _benchmark(arguments: argparse.Namespace, file: Path, processes: DistributedContext) -> Results:
    """Measure the missing cells, and save the results after each."""
    host, base = host_of(arguments, processes), config_of(arguments)
    check_new_tokens(host, base, arguments.num_vectors, arguments.initializer_token)
    options = {name: getattr(arguments, name) for name in Protocol.__dataclass_fields__ if hasattr(arguments, name)}
    protocol = Protocol(**{**options, "base": base, "hflip": hflip_of(arguments)})
    results = Results({"model": f"{host.name} {host.fingerprint}", **protocol.describe()}, _versions(host))
    if processes.is_main and not arguments.dry_run:
        merge_parts(file, results)
    tasks, results.missing = _tasks(arguments, host, protocol, processes)
    results.data |= {name: dict(task.facts) for name, task in tasks.items()}
    runs = [RUNS[METHODS.index(name)] for name in dict.fromkeys(arguments.methods)]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    cells = all_cells(tasks.values(), sorted(set(arguments.shots)), seeds, runs)
    done = {Cell(*values) for values in processes.gather([list(vars(cell).values()) for cell in results.done()])[0]}
    cells_left = [cell for cell in cells if cell not in done]
    costs: dict[Cell, Cost] = {}
    tasks_left = [task for task in tasks.values() if any(cell.data == task.name for cell in cells_left)]
    if cells_left:
        rates = measured_rates(max(tasks.values(), key=lambda task: len(task.names)), runs)
        costs = {cell: cost_of(cell, tasks[cell.data], rates) for cell in cells_left}
        say(_estimate(costs.values(), len(cells), tasks_left, rates["image"], processes.count), shown=processes.is_main)
    if arguments.dry_run:
        return results
    for task in tasks_left:
        with progress_bar(f"features of {escaped(task.name)}", "image", shown=processes.is_main) as progress:
            task.compute(processes, progress)
    own_cells, finished = _share(costs, processes), 0
    total = sum(costs[cell].calls for cell in own_cells)
    with progress_bar("benchmark", "UNet call", shown=processes.is_main) as progress:
        for cell in own_cells:
            cost, end = costs[cell], finished + costs[cell].calls
            calls = chain(range(finished, end, max(1, cost.trained // max(1, cost.steps))), repeat(end))
            # calls of classification and drawing are counted at the end of the cell
            on_step = lambda _, calls=calls: progress(next(calls), total)  # noqa: E731
            results.cells.append(measure(tasks[cell.data], cell, on_step))
            results.save(part_path(file, processes.index))
            finished = end
            progress(finished, total)
    processes.barrier()
    if processes.is_main:
        merge_parts(file, results)
    return results


def _tasks(
    arguments: argparse.Namespace, host: Host, protocol: Protocol, processes: DistributedContext
) -> tuple[dict[str, Task], dict[str, str]]:
    """Data sets that all processes can load, and the reasons for missing ones."""
    tasks: dict[str, Task] = {}
    missing: dict[str, str] = {}
    if not processes.is_main:
        processes.barrier()  # only the main process downloads
    for name in dict.fromkeys(arguments.data_sets or (BUILT_IN if arguments.model is None else DATA_SETS)):
        try:
            images = _load(name, arguments, download=arguments.download and processes.is_main)
            if images.name in tasks:
                raise MCTIError(f"another data set is called {images.name}, too; rename the folder")
            tasks[images.name] = prepared(images, host, protocol, arguments.cache)
        except MCTIError as error:
            missing[name] = str(error)
            say(f"{name} is left out: {error}", shown=processes.is_main)
    if processes.is_main:
        processes.barrier()
    loaded = processes.gather(list(tasks))
    tasks = {name: task for name, task in tasks.items() if all(name in names for names in loaded)}
    if not tasks:
        raise ConfigError("none of the data sets can be used; give --data-sets, or put them where the lines above say")
    return tasks, missing


def _load(name: str, arguments: argparse.Namespace, *, download: bool) -> ImageSet:
    if name in BUILT_IN:
        dataset = (digit_dataset, character_dataset, texture_dataset)[BUILT_IN.index(name)]()
        return split_by_thirds(name, dataset.classes, (dataset.images, dataset.labels))
    if name in DATA_SETS:
        if arguments.data is None:
            raise MCTIError("give --data, the folder that holds it")
        return load_known(name, arguments.data, download=download)
    if Path(name).is_dir():
        return load_folder(Path(name).resolve())
    raise MCTIError(f"it is neither a folder nor one of {', '.join((*DATA_SETS, *BUILT_IN))}")


def _share(costs: dict[Cell, Cost], processes: DistributedContext) -> list[Cell]:
    """This process's cells: cells are sorted by cost and dealt out in turn, which balances the processes."""
    own_cells = set(sorted(costs, key=lambda cell: -costs[cell].calls)[processes.index :: processes.count])
    return [cell for cell in costs if cell in own_cells]


def _estimate(costs: Iterable[Cost], cells: int, tasks: list[Task], image: float, processes: int) -> str:
    costs = list(costs)
    images = sum(len(task.pool) + len(task.queries) for task in tasks)
    cost = sum(costs, Cost(images, seconds=images * image))
    each = f" in each of {processes} processes" if processes > 1 else ""
    return (
        f"{len(costs)} of {cells} cells are left: {cost.images:,} images, {cost.steps:,} training steps, {cost.trained:,} UNet calls with a "
        f"backward pass and at most {cost.evaluated:,} without; {cost.seconds / 3600 / processes:.1f} hours{each} at the rate measured here"
    )


def _versions(host: Host) -> dict[str, str]:
    """Model, device and package versions."""
    versions = {"model": host.name, "device": str(host.device), "Python": platform.python_version()}
    with suppress(PackageNotFoundError):
        versions["torchvision"] = version("torchvision")
    return {**versions, **library_versions(), "mcti": __version__}
