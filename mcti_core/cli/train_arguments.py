"""Arguments of ``mcti train`` and ``mcti add``: what is read of the examples, and what is shown of a training."""

from __future__ import annotations

import argparse
from pathlib import Path

from .argument_types import count, path

__all__ = ["add_reading", "add_validation"]

MASKS = ("masklabel", "alpha")
"""``data.masks``' words, without what that imports."""
TRACKERS = ("tensorboard", "wandb", "csv")
"""``training.trackers.TRACKERS``."""


def add_reading(command: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser of the command."""
    option = command.add_argument_group("captions, masks and aspect ratios").add_argument
    option(
        "--captions",
        action="store_true",
        help="train each image with the caption in the .txt file beside it, with {} for the token; others in the templates",
    )
    option(
        "--masks",
        type=_masks,
        metavar="WHERE",
        help=f"learn only what is white in a mask: {MASKS[0]} (IMAGE-masklabel.png beside it), {MASKS[1]} (its alpha channel), or "
        "a folder with a folder of masks for each class, named like the images",
    )
    buckets = "keep about the images' aspect ratios instead of cropping them to squares"
    option("--buckets", action="store_true", help=buckets)


def add_validation(command: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser of the command."""
    option = command.add_argument_group("logs and samples", "none of these changes what is learned").add_argument
    logs = "log learning rate, losses, gamma and held-out accuracy to these, separated by commas: " + ", ".join(
        TRACKERS
    )
    option("--report-to", type=_trackers, default=(), metavar="TRACKERS", help=logs)
    drawn = "draw this into --out/samples every few steps, with {} for each of the first eight classes; may be repeated"
    option("--validation-prompt", action="append", default=[], metavar="PROMPT", help=drawn)
    held_out = "class folders with held-out images, whose accuracy is measured every few steps; if not given, what --shots leaves"
    option("--validation-folder", type=path, metavar="FOLDER", help=held_out)
    option(
        "--validation-steps",
        type=count,
        help="steps between samples and between accuracies (100 if either is asked for)",
    )


def _trackers(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in TRACKERS]:
        raise argparse.ArgumentTypeError(f"must be some of {', '.join(TRACKERS)}, got {unknown[0]!r}")
    return names


def _masks(text: str) -> str | Path:
    return text if text in MASKS else path(text)
