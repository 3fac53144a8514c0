"""Options of ``mcti evaluate``, beside those of a model and a training."""

from __future__ import annotations

import argparse

from ..classifiers.methods import METHODS
from .argument_types import add_overwriting, count, file_path, folder_path, path, seed, whole

__all__ = ["METHOD_HELP", "add_evaluation"]

METHOD_HELP = "auto is clip where there is a CLIP space, else diffusion"


def add_evaluation(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("folder", type=path, nargs="?", help="contains one folder of images per class, to split or to test on")
    option("--json", type=file_path("accuracies.json"), help="write all measurements here, as they come")
    add_overwriting(command)
    group = command.add_argument_group("a trained set")
    group.add_argument("--tokens", type=path, help="a token set file to test on FOLDER, without training")
    group.add_argument("--method", choices=METHODS, default="auto", help=METHOD_HELP)
    written = "with --tokens: where evaluation.json, confusion.png and wrong.png go"
    group.add_argument("--out", type=folder_path, help=written)
    group = command.add_argument_group("training and testing on splits")
    option = group.add_argument
    usual = "images to learn from; if not given, those of 1, 2, 4 and 8 that leave one to test on, or all of --train"
    option("--shots", type=count, nargs="+", help=usual)
    option("--seeds", type=count, help="how many random splits, or trainings: 3, or 1 with --folds")
    option("--first-seed", type=seed, default=0, help="seed of the first split; the others follow it")
    option("--folds", type=whole(2), help="cross-validation: each of this many parts is tested on in turn")
    option("--train", type=path, help="a folder of class folders to learn from, in place of FOLDER")
    option("--test", type=path, help="with --train: a folder of class folders to test on")
    group = command.add_argument_group("label errors")
    ranked = "rank the images of FOLDER by how badly their label fits, each judged by all others; nothing is trained"
    group.add_argument("--label-errors", action="store_true", help=ranked)
    page = "with --label-errors: write a page to look through them and to correct them"
    group.add_argument("--review", type=file_path("review.html"), help=page)
