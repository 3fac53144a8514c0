"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..classifiers import METHODS
from ..data import ALPHA, MASKLABEL
from ..files.limits import MAX_STEPS
from . import argument_types as types

__all__ = [
    "add_method", "add_model", "add_output_dir", "add_overwriting", "add_reading", "add_steps", "add_training",
]  # fmt: skip


def add_output_dir(command: argparse.ArgumentParser, contents: str) -> None:
    command.add_argument("--output-dir", "-o", type=types.folder_path, required=True, help=contents)
    add_overwriting(command)


def add_overwriting(command: argparse.ArgumentParser) -> None:
    replace = "replace the results of an earlier run; without it they are never replaced"
    command.add_argument("--overwrite", action="store_true", help=replace)


def add_method(group: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    auto = "auto is clip if there is a CLIP space, otherwise diffusion"
    group.add_argument("--method", choices=METHODS, default="auto", help=auto)


def add_model(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("model").add_argument
    model = "a diffusers folder or single-file checkpoint; by default the pocket checkpoint"
    option("--model", type=types.path, help=model)
    option("--clip", type=types.path, help="a folder with the CLIP model of the checkpoint's text encoder")
    config = "for a single-file checkpoint, offline: a diffusers folder of its family"
    option("--model-config", type=types.path, help=config)
    option("--device", default="auto", help="auto (the first available of cuda, xpu, mps, cpu), cpu, cuda, ...")
    dtype = "number format of the weights; auto: bf16 or else fp16 on CUDA, fp32 on other devices and for the pocket checkpoint"
    option("--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help=dtype)


def add_reading(command: argparse.ArgumentParser) -> None:
    """Add the options for captions, masks and aspect ratio buckets."""
    option = command.add_argument_group("captions, masks and aspect ratios").add_argument
    captions = "use each image's caption from a .txt file of the same name, with {} for the token; templates for images without one"
    option("--captions", action="store_true", help=captions)
    masks = (
        f"learn only the white part of a mask: {MASKLABEL} (IMAGE-masklabel.png in the same folder), {ALPHA} (the image's alpha "
        "channel), or a folder with one folder of masks per class, named like the images"
    )
    option("--masks", type=_masks, metavar="SOURCE", help=masks)
    buckets = "aspect ratio buckets: approximately keep aspect ratios instead of cropping images to squares"
    option("--buckets", action="store_true", help=buckets)


def _masks(text: str) -> str | Path:
    return text if text in (MASKLABEL, ALPHA) else types.path(text)


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
