"""Options of ``mcti classify`` for sorting, captions and review, and options of ``mcti undo``."""

from __future__ import annotations

import argparse

from .argument_types import add_overwriting, file_path, folder_path, path

__all__ = ["add_curation", "add_undoing", "caption_template"]


def add_curation(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("curating a folder", "images classified as '(unknown)' are not changed")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--copy-to", type=folder_path, help="copy images to one folder per class inside this folder")
    either.add_argument("--move-to", type=folder_path, help="move images instead; mcti undo moves them back")
    template = "write a .txt caption per image from this template; {label} and {token} are replaced by the class's own"
    group.add_argument("--caption", type=caption_template, help=template)
    page = "write an HTML page to review and correct the answers, least confident first"
    group.add_argument("--review", type=file_path("review.html"), help=page)
    group.add_argument(
        "--examples", type=path, help="with --review: class folders; the nearest examples of each image are shown"
    )
    table = "a CSV file with columns image and label; its labels replace the answers"
    group.add_argument("--corrections", type=path, help=table)
    add_overwriting(command)


def add_undoing(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=path, help="the undo-NUMBER.json in the folder with the sorted images")


def caption_template(text: str) -> str:
    """A caption template that contains at least one placeholder."""
    if "{label}" not in text and "{token}" not in text:
        raise argparse.ArgumentTypeError(f"must contain {{label}} or {{token}}, got {text[:40]!r}")
    return text
