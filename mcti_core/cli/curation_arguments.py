"""Options of ``mcti classify`` that sort, caption and review images, and of ``mcti undo``."""

from __future__ import annotations

import argparse

from .argument_types import add_overwriting, file_path, folder_path, path

__all__ = ["add_curation", "add_undoing", "caption_template"]


def add_curation(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("curating a folder", "images answered with '(unknown)' stay as they are")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--copy-to", type=folder_path, help="copy images into a folder per class, in this folder")
    either.add_argument("--move-to", type=folder_path, help="move them there; mcti undo puts them back")
    template = (
        "write a .txt with this text beside each image: {label} and {token} stand for its class's label and token"
    )
    group.add_argument("--caption", type=caption_template, help=template)
    page = "write a page to look through the answers, the least confident first, and to correct them"
    group.add_argument("--review", type=file_path("review.html"), help=page)
    group.add_argument("--examples", type=path, help="with --review: class folders whose nearest images are shown, too")
    table = "a CSV file with the columns image and label, which count in place of the answers"
    group.add_argument("--corrections", type=path, help=table)
    add_overwriting(command)


def add_undoing(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=path, help="the undo-NUMBER.json in the folder that was sorted into")


def caption_template(text: str) -> str:
    """A caption in which at least one of the two stands."""
    if "{label}" not in text and "{token}" not in text:
        raise argparse.ArgumentTypeError(f"must contain {{label}} or {{token}}, got {text[:40]!r}")
    return text
