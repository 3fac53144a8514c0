"""``mcti evaluate``: accuracy of training runs over shots and seeds, or of a trained token set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from typing import Any

from ..data.dataset import FewShotDataset, few_shot_split
from ..data.feature_cache import FeatureCache
from ..data.near_duplicates import across_split, example_names, list_pairs
from ..distributed import DistributedContext, started
from ..errors import ConfigError, counted
from ..escaping import escaped
from ..evaluation.few_shot import Row, evaluate, markdown_table
from ..evaluation.label_errors import rank_label_errors
from ..evaluation.measure import class_indices
from ..evaluation.splits import Split, cross_validation, given_split, joined, usual_shots
from ..files.provenance import check_outputs
from ..files.writing import check_writable
from .console import say
from .evaluate_tokens import run_evaluate_tokens
from .options import check_new_tokens, config_of, examples_of, features_of, host_of, json_output, processes_of
from .review_page import Item, write_review

__all__ = ["run_evaluate"]


def run_evaluate(arguments: argparse.Namespace) -> int:
    if arguments.tokens or arguments.label_errors:
        if started() > 1:
            raise ConfigError("--tokens and --label-errors are for one process; start it without a launcher")
        return run_evaluate_tokens(arguments) if arguments.tokens else _label_errors(arguments)
    dataset, split = _examples(arguments)
    for count in arguments.shots:
        split(count, _seeds(arguments)[0])  # too many shots are an error before any work
    processes = processes_of(arguments, uneven=True)
    if processes.is_main and arguments.cache is not None:
        check_writable(arguments.cache)
    with json_output(arguments, shown=processes.is_main) as write:
        return _evaluate(arguments, dataset, split, processes, write)


def _label_errors(arguments: argparse.Namespace) -> int:
    dataset, page = examples_of(arguments), arguments.review
    if page is not None:
        check_outputs([page], overwrite=arguments.overwrite)
    with json_output(arguments) as write:
        cache = features_of(arguments, host_of(arguments), dataset, latents=False)
        records: list[dict[str, Any]] = [
            {
                "image": str(dataset.images[error.index]),
                "label": dataset.classes[error.label],
                "suggested": dataset.classes[error.suggested],
                "confidence": round(error.confidence, 6),
            }
            for error in rank_label_errors(cache)
        ]
        write({"folder": arguments.folder.name, "images": len(dataset), "likely_label_errors": records})
    items = [
        Item(each["image"], each["label"], f"looks like {each['suggested']} ({100 * each['confidence']:.1f} %)")
        for each in records
    ]
    if page is not None:
        write_review(items, dataset.classes, page)
    for item in items:
        print("\t".join(map(escaped, (item.image, item.label, item.note))))
    print(f"{counted(len(records), 'likely label error')} among {counted(len(dataset), 'image')}")
    return 0


def _examples(arguments: argparse.Namespace) -> tuple[FewShotDataset, Split]:
    """The examples and their split function. Sets ``arguments.shots`` if they are not given."""
    dataset = examples_of(arguments, arguments.train)
    labels, classes = dataset.labels, dataset.classes
    counts = labels.bincount().tolist()
    split: Split = partial(few_shot_split, labels, classes)
    usual = [max(counts)]
    if arguments.train:
        test = examples_of(arguments, arguments.test, min_classes=1)
        dataset, count = joined(dataset, test, class_indices(test.classes, classes)), len(dataset)
        split = given_split(dataset.labels, classes, count)
    elif arguments.folds:
        split = cross_validation(labels, classes, arguments.folds)
        usual = [min(counts) - -(-min(counts) // arguments.folds)]
    elif arguments.shots is None:
        usual = usual_shots(labels, classes)
    arguments.shots = list(dict.fromkeys(arguments.shots or usual))
    return dataset, split


def _evaluate(
    arguments: argparse.Namespace, dataset: FewShotDataset, split: Split, processes: DistributedContext, write: Any
) -> int:
    host, config = host_of(arguments, processes), config_of(arguments)
    check_new_tokens(host, config, arguments.num_vectors, arguments.initializer_token)
    cache = features_of(arguments, host, dataset, processes)
    if processes.is_main:
        _warn_of_copies(cache, dataset, arguments.shots, _seeds(arguments), split)
    rows: list[Row] = []
    classes, folder = len(dataset.classes), (arguments.train or arguments.folder).name
    described = {"folder": folder, "classes": classes, "chance": 1 / classes}

    def on_row(row: Row) -> None:
        rows.append(row)
        run = f"{counted(row.shots, 'shot')}, seed {row.seed}"
        print(f"{run}: {row.method} {100 * row.accuracy:.1f}% ({row.seconds:.1f} s)", file=sys.stderr, flush=True)
        write({**described, "rows": list(map(asdict, rows))})

    measured = evaluate(
        host, cache, arguments.shots, _seeds(arguments), config, gammas=list(dict.fromkeys(arguments.gammas or ())),
        num_vectors=arguments.num_vectors, initializer_token=arguments.initializer_token, split=split, on_row=on_row, processes=processes,
    )  # fmt: skip
    if processes.count > 1:  # on_row receives only the rows of its own process
        rows[:] = measured
        write({**described, "rows": list(map(asdict, rows))})
    if processes.is_main:
        print(markdown_table(rows, 1 / classes))
    return 0


def _seeds(arguments: argparse.Namespace) -> range:
    """Seeds of the splits; cross-validation has one per fold."""
    each = arguments.folds or 1
    return range(arguments.first_seed * each, (arguments.first_seed + arguments.seeds) * each)


def _warn_of_copies(
    cache: FeatureCache, dataset: FewShotDataset, shots: Sequence[int], seeds: Sequence[int], split: Split
) -> None:
    """Warn of test images that are copies of training images."""
    if cache.alike is None:
        return
    pairs: list[tuple[int, int]] = []
    copies = queries = 0
    for count, seed in product(shots, seeds):
        few, others = split(count, seed)
        found = across_split(cache.alike, few, others)
        pairs, copies, queries = pairs or found, copies + len(found), queries + len(others)
    if copies:
        say(
            f"{100 * copies / queries:.0f} % of the images to test on are the same as an image to learn from, or nearly so ({list_pairs(pairs, example_names(dataset))}); "
            "accuracies will be too high, so take the copies out"
        )
