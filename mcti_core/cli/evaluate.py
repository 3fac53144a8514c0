"""``mcti evaluate``: accuracy of a token set, or of trainings over shots and seeds; likely label errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..classifiers.calibration import calibrated_classifier
from ..data.dataset import FewShotDataset, few_shot_split
from ..data.feature_cache import FeatureCache
from ..data.near_duplicates import across_split, example_names, list_pairs
from ..distributed import DistributedContext, started
from ..errors import ConfigError, counted
from ..escaping import escaped
from ..evaluation.few_shot import Row, evaluate, markdown_table
from ..evaluation.label_errors import rank_label_errors
from ..evaluation.measure import Measurement, class_indices, count_learned, score_images
from ..evaluation.splits import Split, cross_validation, given_split, joined, usual_shots
from ..files.output_lock import lock_output
from ..files.provenance import check_outputs, is_marked, write_json, write_png
from ..files.writing import check_writable, delete_own
from ..images.reading import load_squares
from ..tokens.io import load_tokens
from ..tokens.token_set import TokenSet
from ..viz.image_grid import image_grid
from ..viz.plots import confusion_plot
from .console import progress_bar, say
from .options import check_new_tokens, config_of, examples_of, features_of, host_of, json_output, processes_of
from .review_page import Item, write_review

__all__ = ["run_evaluate"]

_NUM_MISTAKES = 12
"""Number of wrong answers printed and drawn."""


def run_evaluate(arguments: argparse.Namespace) -> int:
    if arguments.tokens or arguments.label_errors:
        if started() > 1:
            raise ConfigError("--tokens and --label-errors are for one process; start it without a launcher")
        return _token_set(arguments) if arguments.tokens else _label_errors(arguments)
    dataset, split = _examples(arguments)
    for count in arguments.shots:
        split(count, _seeds(arguments)[0])  # too many shots are an error before any work
    processes = processes_of(arguments, uneven=True)
    if processes.is_main and arguments.cache is not None:
        check_writable(arguments.cache)
    with json_output(arguments, shown=processes.is_main) as write:
        return _evaluate(arguments, dataset, split, processes, write)


def _token_set(arguments: argparse.Namespace) -> int:
    tokens = load_tokens(arguments.tokens)
    dataset = examples_of(arguments, min_classes=1)
    classes = class_indices(dataset.classes, tokens.labels)
    out = arguments.output_dir
    outputs = [] if out is None else [out / name for name in ("evaluation.json", "confusion.png", "wrong.png")]
    with (
        nullcontext() if out is None else lock_output(out, folder=True),
        json_output(arguments) as write,
    ):
        if outputs:
            check_outputs(outputs, overwrite=arguments.overwrite)
        measured = _measured(arguments, tokens, dataset, classes)
        record = {"tokens": str(arguments.tokens), **measured.record([str(image) for image in dataset.images])}
        mistakes = record["most_confidently_wrong"][:_NUM_MISTAKES]
        answers = [f"{e['label']}, taken for {e['predicted']} ({100 * e['confidence']:.1f} %)" for e in mistakes]
        write(record)
        if outputs:
            table, confusion, wrong = outputs
            write_json(record, table)
            write_png(confusion_plot(measured.confusion(), tokens.labels), confusion)
            if mistakes:
                pictures = load_squares([Path(each["image"]) for each in mistakes], 128)
                write_png(image_grid([[picture] for picture in pictures], answers), wrong)
            else:
                delete_own(wrong, is_marked)  # of an earlier run
    print("\n".join([*measured.class_table(), ""]))
    for each, answer in zip(mistakes, answers, strict=True):
        print(escaped(f"{each['image']}: {answer}"))
    print(
        f"accuracy {100 * record['accuracy']:.1f} % of {counted(record['images'], 'image')}; chance {100 * record['chance']:.1f} %; "
        f"expected calibration error {100 * record['expected_calibration_error']:.1f} %"
    )
    return 0


def _measured(
    arguments: argparse.Namespace, tokens: TokenSet, dataset: FewShotDataset, classes: Sequence[int]
) -> Measurement:
    host = host_of(arguments)
    classifier = calibrated_classifier(arguments.method, host, tokens)
    with progress_bar("evaluating", "image") as progress:
        confidences, features = score_images(host, classifier, dataset.images, progress=progress)
    if learned := count_learned(tokens, features):
        say(
            f"{learned} of {len(dataset)} images are the same as images that the tokens were learned from, or nearly so; the accuracy is "
            "too high, so test on other images"
        )
    return Measurement(tokens.labels, torch.tensor(classes)[dataset.labels], confidences)


def _label_errors(arguments: argparse.Namespace) -> int:
    dataset, page = examples_of(arguments), arguments.review
    if page is not None:
        check_outputs([page], overwrite=arguments.overwrite)
    with json_output(arguments) as write:
        cache = features_of(arguments, host_of(arguments), dataset, latents=False)
        records: list[dict[str, Any]] = [
            {
                "image": str(dataset.images[index]),
                "label": dataset.classes[dataset.labels[index]],
                "suggested": dataset.classes[suggested],
                "confidence": round(confidence, 6),
            }
            for index, suggested, confidence in rank_label_errors(cache)
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
    rows_so_far: list[Row] = []
    classes, folder = len(dataset.classes), (arguments.train or arguments.folder).name
    described = {"folder": folder, "classes": classes, "chance": 1 / classes}

    def on_row(row: Row) -> None:
        rows_so_far.append(row)
        run = f"{counted(row.shots, 'shot')}, seed {row.seed}"
        print(f"{run}: {row.method} {100 * row.accuracy:.1f}% ({row.seconds:.1f} s)", file=sys.stderr, flush=True)
        write({**described, "rows": list(map(asdict, rows_so_far))})

    rows = evaluate(
        host, cache, arguments.shots, _seeds(arguments), config, gammas=list(dict.fromkeys(arguments.gammas or ())),
        num_vectors=arguments.num_vectors, initializer_token=arguments.initializer_token, split=split, on_row=on_row, processes=processes,
    )  # fmt: skip
    if processes.count > 1:  # on_row receives only the rows of its own process
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
