"""``mcti evaluate``: accuracy over shots and seeds, as a table and as JSON."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ..errors import ConfigError, counted
from .console import say
from .option_checks import check_new_tokens
from .options import config_of, examples_of, features_of, host_of, processes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..data.dataset import FewShotDataset
    from ..data.feature_cache import FeatureCache
    from ..distributed import DistributedContext

__all__ = ["run_evaluate"]


def run_evaluate(arguments: argparse.Namespace) -> int:
    from ..evaluation.benchmark import check_shots, usual_shots
    from ..files.output_lock import lock_output
    from ..files.outputs import check_writable, refuse_to_replace
    from ..files.ownership import refuse_foreign
    from ..files.provenance import is_marked

    dataset = examples_of(arguments)
    if arguments.shots is None:
        arguments.shots = usual_shots(dataset.labels, dataset.classes)
    arguments.shots = list(dict.fromkeys(arguments.shots))
    check_shots(dataset.labels, dataset.classes, arguments.shots)
    processes = processes_of(arguments, uneven=True)
    if processes.is_main and arguments.cache is not None:
        check_writable(arguments.cache)
    if arguments.json is None or not processes.is_main:
        return _evaluate(arguments, dataset, processes)
    refuse_foreign(arguments.json, is_marked)
    check_writable(arguments.json.parent, [arguments.json.name])
    with lock_output(arguments.json, folder=False):
        refuse_to_replace([arguments.json], overwrite=arguments.overwrite)
        return _evaluate(arguments, dataset, processes)


def _evaluate(arguments: argparse.Namespace, dataset: FewShotDataset, processes: DistributedContext) -> int:
    from ..evaluation.benchmark import Row, as_json, evaluate, markdown_table
    from ..files.provenance import write_json

    host, config = host_of(arguments, processes), config_of(arguments)
    if host.clip is None:
        raise ConfigError("to evaluate, the examples need image features; give a CLIP space with --clip")
    check_new_tokens(host, config, arguments.vectors, arguments.init)
    cache = features_of(arguments, host, dataset, processes)
    if processes.is_main:
        _tell_copies(cache, dataset, arguments.shots, _seeds(arguments))
    rows: list[Row] = []

    def write() -> None:
        if arguments.json is None or not processes.is_main:
            return
        content = {
            "folder": arguments.folder.name,
            "classes": len(dataset.classes),
            "chance": 1 / len(dataset.classes),
            "rows": as_json(rows),
        }
        write_json(content, arguments.json)

    def on_row(row: Row) -> None:
        rows.append(row)
        print(
            f"{counted(row.shots, 'shot')}, seed {row.seed}: {row.method} {100 * row.accuracy:.1f}% ({row.seconds:.1f} s)",
            file=sys.stderr,
            flush=True,
        )
        write()

    measured = evaluate(
        host, cache, arguments.shots, _seeds(arguments), config,
        vectors=arguments.vectors, init=arguments.init, on_row=on_row, processes=processes,
    )  # fmt: skip
    if processes.count > 1:  # until now it had its own rows only
        rows[:] = measured
        write()
    if processes.is_main:
        print(markdown_table(rows, 1 / len(dataset.classes)))
    return 0


def _seeds(arguments: argparse.Namespace) -> range:
    return range(arguments.first_seed, arguments.first_seed + arguments.seeds)


def _tell_copies(cache: FeatureCache, dataset: FewShotDataset, shots: Sequence[int], seeds: Sequence[int]) -> None:
    """What makes accuracies too high, or wrong, before they are measured."""
    from ..data.dataset import few_shot_split
    from ..data.near_duplicates import across_split, example_names, told

    if cache.alike is None:
        return
    pairs: list[tuple[int, int]] = []
    copies = queries = 0
    for count in shots:
        for seed in seeds:
            few, others = few_shot_split(cache.labels, cache.classes, count, seed)
            found = across_split(cache.alike, few, others)
            pairs, copies, queries = pairs or found, copies + len(found), queries + len(others)
    if copies:
        say(
            f"{100 * copies / queries:.0f} % of the images to test on are the same as an image to learn from, or nearly so ({told(pairs, example_names(dataset))}); "
            "accuracies will be too high, so take the copies out"
        )
