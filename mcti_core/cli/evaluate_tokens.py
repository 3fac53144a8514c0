"""``mcti evaluate --tokens SET FOLDER``: accuracy and calibration of a token set on held-out images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from ..classifiers.calibration import calibrated_classifier
from ..data.dataset import FewShotDataset
from ..errors import counted
from ..escaping import escaped
from ..evaluation.measure import Measurement, class_indices, count_learned, score_images
from ..files.output_lock import lock_output
from ..files.provenance import check_outputs, is_marked, write_json, write_png
from ..files.writing import delete_own
from ..images.reading import load_squares
from ..tokens.io import load_tokens
from ..tokens.token_set import TokenSet
from ..viz.image_grid import image_grid
from ..viz.plots import confusion_plot
from .console import progress_bar, say
from .options import examples_of, host_of, json_output

__all__ = ["run_evaluate_tokens"]

_NUM_MISTAKES = 12
"""Number of wrong answers printed and drawn."""


def run_evaluate_tokens(arguments: argparse.Namespace) -> int:
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
        write(record)
        if outputs:
            table, confusion, wrong = outputs
            write_json(record, table)
            write_png(confusion_plot(measured.confusion(), tokens.labels), confusion)
            if mistakes:
                labels = [
                    f"{each['label']}, taken for {each['predicted']} ({each['confidence']:.0%})" for each in mistakes
                ]
                pictures = load_squares([Path(each["image"]) for each in mistakes], 128)
                write_png(image_grid([[picture] for picture in pictures], labels), wrong)
            else:
                delete_own(wrong, is_marked)  # of an earlier run
    print("\n".join([*measured.class_table(), ""]))
    for each in mistakes:
        answer = f"{each['label']}, taken for {each['predicted']} ({100 * each['confidence']:.1f} %)"
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
