"""Arguments of the commands that train: settings, what is read of the examples, and what is shown of a training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..files.limits import MAX_STEPS
from .argument_types import count, gamma, number, path, seed, whole

__all__ = ["add_reading", "add_steps", "add_training", "add_validation"]

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


def add_training(command: argparse.ArgumentParser, *, gammas: bool = False) -> None:
    """Add the settings of a training; ``gammas`` as for ``add_steps``."""
    group = add_steps(command, gammas=gammas)
    directions = ("text_to_image", "image_to_text", "symmetric")
    group.add_argument("--direction", choices=directions, help="direction of the classification term")
    where = "where a prompt's text feature is read: at its end, or at the token"
    group.add_argument("--pooling", choices=("eot", "token"), help=where)
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--templates", choices=("object", "style"), help="prompts to train in: for objects, or for styles"
    )
    either.add_argument("--template", action="append", help="a prompt of your own with {} in it; may be repeated")
    group.add_argument("--vectors", type=count, help="vectors per token: 1, or as many as the tokens to start from")


def add_steps(command: argparse.ArgumentParser, *, gammas: bool = False) -> Any:
    """Add the settings that do not change how tokens are read.

    Args:
        gammas: several values of gamma can be given, to be compared.
    """
    group = command.add_argument_group("training", "what is not given is the model's own default")
    option = group.add_argument
    option("--steps", type=whole(1, MAX_STEPS), help="training steps, for all classes together")
    option("--batch", type=count, help="images per step")
    option(
        "--micro-batch",
        type=whole(0),
        help="maximum number of images at once: less memory, the same steps; 0 is the whole batch",
    )
    option("--lr", type=number(0), help="learning rate")
    option("--gamma-end", type=number(0), help="value of gamma at the end of training, with a number as --gamma")
    option("--warm-start", type=whole(0, MAX_STEPS), help="steps on the classification term alone before the first")
    option("--seed", type=seed, help="seed of the training, and of --shots")
    weight = "weight of the classification term: a number, or 'auto' to follow the gradients"
    if gammas:
        option("--gamma", type=gamma, nargs="+", dest="gammas", help=f"{weight}; several are compared")
    else:
        option("--gamma", type=gamma, help=weight)
    option(
        "--gradient-ratio",
        type=number(0),
        help="with --gamma auto: size of that term's gradient relative to the reconstruction term's",
    )
    less = "less memory for more time; a single process turns it on by itself where it must"
    option("--gradient-checkpointing", action="store_true", default=None, help=less)
    kept = "keep token vectors as long as the vocabulary's"
    option("--keep-norm", action="store_true", default=None, help=kept)
    option("--init", help="first vector: a word, 'mean' or 'random'")
    option("--mirror", action=argparse.BooleanOptionalAction, help="train on mirror images too")
    return group
