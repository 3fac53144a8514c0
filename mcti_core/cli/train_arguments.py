"""Arguments of ``mcti train`` and ``mcti add`` about what is read of the examples."""

from __future__ import annotations

import argparse
from pathlib import Path

from .argument_types import path

__all__ = ["add_reading"]

MASKS = ("masklabel", "alpha")
"""``data.masks``' words, without what that imports."""


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


def _masks(text: str) -> str | Path:
    return text if text in MASKS else path(text)
