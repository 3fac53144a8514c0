"""Options of the commands that train: training settings, reading of examples, logs and samples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..files.limits import MAX_STEPS
from . import argument_types as types
from .options import add_model, add_output_dir

__all__ = ["MASKS", "TRACKERS", "add_reading", "add_steps", "add_train", "add_training"]

MASKS = ("masklabel", "alpha")
"""The choices of ``data.sidecars``, repeated because that module imports PyTorch."""
TRACKERS = ("tensorboard", "wandb", "csv")
"""The choices of ``training.trackers``, repeated because that module imports PyTorch."""


def add_train(command: argparse.ArgumentParser) -> None:
    """Add the options of ``mcti train``."""
    option = command.add_argument
    option("folder", type=types.path, help="contains one folder of images per class")
    add_output_dir(command, "folder for tokens.safetensors, embeddings/, loss.png, README.md and run.toml")
    config = "a TOML file of options, such as the run.toml of another run; the command line takes precedence"
    option("--config", type=types.path, help=config)
    add_model(command)
    add_training(command)
    start = "a token set to continue from, as a file or a folder of mcti train: its classes keep their vectors as the start; sets --template and --pooling"
    option("--start-from", type=types.path, help=start)
    table = "a CSV file with columns image and label, as a review page exports it: corrected labels, images to add or exclude"
    option("--corrections", type=types.path, help=table)
    option("--shots", type=types.count, help="train on this many random images of each class instead of all")
    add_reading(command)
    _add_validation(command)
    group = command.add_argument_group("resuming an interrupted training")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="resume an interrupted training from --output-dir")
    either.add_argument("--restart", action="store_true", help="start over, discarding the training in --output-dir")
    seconds = types.number(least=0)
    group.add_argument("--save-every", type=seconds, default=10.0, help="seconds between saves; 0 saves every step")


def add_reading(command: argparse.ArgumentParser) -> None:
    """Add the options for captions, masks and aspect ratio buckets."""
    option = command.add_argument_group("captions, masks and aspect ratios").add_argument
    captions = "use each image's caption from a .txt file of the same name, with {} for the token; templates for images without one"
    option("--captions", action="store_true", help=captions)
    masks = (
        f"learn only the white part of a mask: {MASKS[0]} (IMAGE-masklabel.png in the same folder), {MASKS[1]} (the image's alpha "
        "channel), or a folder with one folder of masks per class, named like the images"
    )
    option("--masks", type=_masks, metavar="SOURCE", help=masks)
    buckets = "aspect ratio buckets: approximately keep aspect ratios instead of cropping images to squares"
    option("--buckets", action="store_true", help=buckets)


def _add_validation(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("logs and samples", "these options do not change the tokens").add_argument
    logs = f"log learning rate, losses, gamma and held-out accuracy; comma-separated list of {', '.join(TRACKERS)}"
    option("--report-to", type=_trackers, default=(), metavar="TRACKERS", help=logs)
    samples = "draw samples of this prompt to --output-dir/samples, with {} for each of the first eight classes; may be repeated"
    option("--validation-prompt", action="append", default=[], metavar="PROMPT", help=samples)
    held_out = "class folders of held-out images to measure accuracy on; without it, the images that --shots leaves"
    option("--validation-folder", type=types.path, metavar="FOLDER", help=held_out)
    steps = "number of steps between validations (100 with --validation-prompt or --validation-folder)"
    option("--validation-steps", type=types.count, help=steps)


def _trackers(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in TRACKERS]:
        raise argparse.ArgumentTypeError(f"must be some of {', '.join(TRACKERS)}, got {unknown[0]!r}")
    return names


def _masks(text: str) -> str | Path:
    return text if text in MASKS else types.path(text)


def add_training(command: argparse.ArgumentParser, *, gammas: bool = False) -> None:
    """Add all settings of a training; ``gammas`` as for ``add_steps``."""
    group = add_steps(command, gammas=gammas)
    directions = ("text_to_image", "image_to_text", "symmetric")
    group.add_argument("--direction", choices=directions, help="direction of the classification term")
    pooling = "position of a prompt's text feature: end of text, or the token"
    group.add_argument("--pooling", choices=("eot", "token"), help=pooling)
    either = group.add_mutually_exclusive_group()
    either.add_argument("--templates", choices=("object", "style"), help="built-in prompt templates")
    either.add_argument("--template", action="append", help="prompt template that contains {}; may be repeated")
    group.add_argument("--num-vectors", type=types.count, help="vectors per token (1, or as in --start-from)")


def add_steps(command: argparse.ArgumentParser, *, gammas: bool = False) -> Any:
    """Add the settings that do not affect the use of tokens after training.

    Args:
        gammas: let --gamma take several values, which are compared.

    Returns:
        The argument group.
    """
    group = command.add_argument_group("training", "defaults depend on the model")
    option = group.add_argument
    option("--steps", type=types.whole(1, MAX_STEPS), help="number of training steps")
    option("--batch-size", type=types.count, help="images per step")
    micro = "maximum number of images per forward pass, to save memory; does not change the steps; 0 is the whole batch"
    option("--micro-batch-size", type=types.whole(0), help=micro)
    option("--lr", type=types.number(0), help="learning rate")
    option("--gamma-end", type=types.number(0), help="gamma at the end of training; requires a number as --gamma")
    first = "number of first steps with only the classification term, in addition to --steps"
    option("--classification-only-steps", type=types.whole(0, MAX_STEPS), help=first)
    option("--seed", type=types.seed, help="random seed of training and of --shots")
    weight = "weight of the classification term: a number, or 'auto' to balance the gradients"
    if gammas:
        option("--gamma", type=types.gamma, nargs="+", dest="gammas", help=f"{weight}; several are compared")
    else:
        option("--gamma", type=types.gamma, help=weight)
    ratio = "with --gamma auto: ratio of the classification gradient's norm to that of the reconstruction term"
    option("--gradient-ratio", type=types.number(0), help=ratio)
    less = "use less memory and more time; a single process enables it when memory runs out"
    option("--gradient-checkpointing", action="store_true", default=None, help=less)
    norms = "keep the norm of token vectors at that of the vocabulary"
    option("--keep-norm", action="store_true", default=None, help=norms)
    option("--initializer-token", help="initial vector: a word, 'mean' or 'random'")
    option("--cache", type=types.folder_path, help="folder that caches image features between runs")
    option("--hflip", action=argparse.BooleanOptionalAction, help="also train on horizontally flipped images")
    return group
