"""The arguments of ``mcti benchmark``."""

from __future__ import annotations

import argparse

from .argument_types import count, folder_path, path, path_text, seed, whole

__all__ = ["METHODS", "add_benchmarking"]

METHODS = ("reference", "baselines", "ti", "mcti", "released")
"""Names of ``evaluation.cells.RUNS`` on the command line, in the same order."""


def add_benchmarking(command: argparse.ArgumentParser) -> None:
    """Add all arguments but those of the model and the training."""
    option = command.add_argument
    files = "folder for results.json, table.md and plot.png; after an interruption the same command resumes from it"
    option("--output-dir", "-o", type=folder_path, required=True, help=files)
    option("--restart", action="store_true", help="discard the results in --output-dir and start over")
    option("--dry-run", action="store_true", help="only print the cost estimate")
    option("--compare", type=path, metavar="FILE", help="another results.json to print the differences to")
    option = command.add_argument_group("data").add_argument
    names = (
        "flowers102, imagenet, food101, pets, aircraft, cars, ucf101, eurosat, dtd, caltech101, stl10, cifar10; the built-in digits, "
        "characters and textures; or folders of class folders (default: the built-in ones; with --model, the twelve others)"
    )
    option("--data-sets", type=path_text, nargs="+", metavar="NAME", help=names)
    option("--data", type=path, help="folder of the data sets, in torchvision's layout")
    option("--download", action="store_true", help="download missing data sets into --data, if torchvision can")
    option = command.add_argument_group("protocol").add_argument
    option("--shots", type=count, nargs="+", default=[1, 2, 4, 8], help="examples per class")
    option("--seeds", type=count, default=3, help="number of random choices of the examples")
    option("--first-seed", type=seed, default=0, help="first seed; the others follow it")
    methods = "reference: CLIP zero-shot with names, and measures of real images; baselines: classifiers without tokens"
    option("--methods", choices=METHODS, nargs="+", default=list(METHODS), help=methods)
    option("--max-classes", type=whole(2), help="random classes per data set (default: all)")
    option("--max-queries", type=count, help="random test images per class (default: all)")
    pool = "training images per class to draw the examples from, and to train the judge of drawings on"
    option("--pool", type=count, default=32, help=pool)
    option("--diffusion-queries", type=whole(0), default=100, help="test images of the diffusion classifier")
    trials = "maximum number of pairs of noise level and noise of the diffusion classifier"
    option("--num-trials", type=count, default=64, help=trials)
    option("--drawings", type=whole(0), default=4, help="generated images per class")
    option("--drawing-steps", type=count, default=25, help="denoising steps per drawing")
    option("--released-steps", type=count, default=3100, help="steps per class of MC-TI as released")
