"""Options of ``mcti evaluate`` in addition to those of a model and a training."""

from __future__ import annotations

import argparse

from ..classifiers.methods import METHODS
from .argument_types import add_overwriting, count, file_path, folder_path, path, seed, whole

__all__ = ["METHOD_HELP", "add_evaluation"]

METHOD_HELP = "auto is clip if there is a CLIP space, otherwise diffusion"


def add_evaluation(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("folder", type=path, nargs="?", help="one folder of images per class, to split or to test on")
    option("--output-json", type=file_path("accuracies.json"), help="file for all measurements; updated after each")
    add_overwriting(command)
    group = command.add_argument_group("a trained set")
    group.add_argument(
        "--tokens", type=path, help="a token set (the file, or its folder) to test on FOLDER, without training"
    )
    group.add_argument("--method", choices=METHODS, default="auto", help=METHOD_HELP)
    written = "with --tokens: folder for evaluation.json, confusion.png and wrong.png"
    group.add_argument("--output-dir", "-o", type=folder_path, help=written)
    group = command.add_argument_group("training and testing on splits")
    option = group.add_argument
    usual = "training images per class; by default those of 1, 2, 4 and 8 that leave one for testing, or all of --train"
    option("--shots", type=count, nargs="+", help=usual)
    option("--seeds", type=count, help="number of random splits or trainings; by default 3, or 1 with --folds")
    option("--first-seed", type=seed, default=0, help="seed of the first split; the next ones increase by 1")
    option("--folds", type=whole(2), help="number of folds for cross-validation")
    option("--train", type=path, help="a folder of class folders to train on, instead of FOLDER")
    option("--test", type=path, help="with --train: a folder of class folders to test on")
    group = command.add_argument_group("label errors")
    ranked = "rank the images of FOLDER by how likely their label is wrong, by leave-one-out on their image features"
    group.add_argument("--label-errors", action="store_true", help=ranked)
    page = "with --label-errors: write an HTML page to review and correct them"
    group.add_argument("--review", type=file_path("review.html"), help=page)
