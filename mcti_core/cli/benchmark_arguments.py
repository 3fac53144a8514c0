"""The arguments of ``mcti benchmark``."""

from __future__ import annotations

import argparse

from .argument_types import count, folder_path, path, path_text, seed, whole

__all__ = ["METHODS", "add_benchmarking"]

METHODS = ("reference", "baselines", "ti", "mcti", "released")
"""In the order of ``evaluation.cells.RUNS``, without what that imports."""


def add_benchmarking(command: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser of the command, but for those of the model and the training."""
    option = command.add_argument
    files = "where results.json, table.md and plot.png go; the same command goes on there after a break"
    option("--out", type=folder_path, required=True, help=files)
    option("--restart", action="store_true", help="start over, discarding the results in --out")
    option("--dry-run", action="store_true", help="only say what it would cost")
    option("--compare", type=path, metavar="FILE", help="another results.json: print the differences to it, too")
    option = command.add_argument_group("data").add_argument
    names = (
        "flowers102, imagenet, food101, pets, aircraft, cars, ucf101, eurosat, dtd, caltech101, stl10, cifar10; digits, characters "
        "and textures, which are built in; or folders of class folders. If not given, the built-in ones, with --model the others"
    )
    option("--data-sets", type=path_text, nargs="+", metavar="NAME", help=names)
    option("--data", type=path, help="the folder of the data sets, each as torchvision expects it")
    option("--download", action="store_true", help="download into --data what is not there, where torchvision can")
    option = command.add_argument_group("protocol").add_argument
    option("--shots", type=count, nargs="+", default=[1, 2, 4, 8], help="examples per class")
    option("--seeds", type=count, default=3, help="how many random choices of the examples")
    option("--first-seed", type=seed, default=0, help="seed of the first choice; the others follow it")
    methods = "reference is CLIP with names, and real images in place of drawings; baselines use no tokens"
    option("--methods", choices=METHODS, nargs="+", default=list(METHODS), help=methods)
    option("--max-classes", type=whole(2), help="random classes of each data set; if not given, all")
    option("--max-queries", type=count, help="random test images per class; if not given, all")
    pool = "training images per class to choose examples from; the judge of drawings learns from all of them"
    option("--pool", type=count, default=32, help=pool)
    option("--diffusion-queries", type=whole(0), default=100, help="test images for the diffusion classifier")
    option("--pairs", type=count, default=64, help="most pairs of noise level and noise for the diffusion classifier")
    option("--drawings", type=whole(0), default=4, help="drawings per class")
    option("--drawing-steps", type=count, default=25, help="denoising steps per drawing")
    option("--released-steps", type=count, default=3100, help="steps per class of MC-TI as released")
