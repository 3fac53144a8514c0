"""The arguments of ``mcti convert``."""

from __future__ import annotations

import argparse
from typing import Any

from .argument_types import add_overwriting, path, path_text

__all__ = ["LAYOUTS", "add_converting"]

LAYOUTS = ("comfyui", "diffusers", "onetrainer")
"""``tokens.io.LAYOUTS``, without what that imports."""


def add_converting(command: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser of the command."""
    option = command.add_argument
    known = "token sets, embeddings (.safetensors, .pt, .bin, images of the A1111 web UI), folders of them"
    option("inputs", type=path, nargs="+", metavar="IN", help=known)
    option("--output", "-o", type=path_text, required=True, help="the set's file, or the embeddings' folder")
    kinds = ("set", "embeddings")
    option("--format", choices=kinds, required=True, help="one file for all classes, or one file per class")
    option(
        "--layout",
        choices=LAYOUTS,
        help=f"of the embeddings of SD 1.x and 2.x; {LAYOUTS[0]} if not given, the only one that InvokeAI recognises",
    )
    for name, metavar, what in (
        ("select", "LABEL", "only these classes, in this order"),
        ("labels", "LABEL", "new labels for all classes, in their order"),
        ("rename", "OLD=NEW", "new labels for some classes"),
    ):
        option(
            f"--{name}", nargs="+", action=_InOrder, metavar=metavar, dest="operations", default=argparse.SUPPRESS,
            help=f"{what}; FILE:LABEL is the class that FILE calls LABEL; --select, --labels and --rename act in the order written",
        )  # fmt: skip
    option("--prefix", default="", help="put this before every token's name, as in my-; labels stay")
    add_overwriting(command)
    command.set_defaults(operations=())


class _InOrder(argparse.Action):
    """Options that act one after the other: (option, what was written behind it) of each."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        kind, before = str(option).lstrip("-"), list(namespace.operations)
        for value in values:
            if kind == "rename" and "=" not in value:
                raise argparse.ArgumentError(self, f"must be OLD=NEW, got {value!r}")
        if before and before[-1][0] == kind == "select":  # --select a --select b is --select a b
            values = [*before.pop()[1], *values]
        namespace.operations = (*before, (kind, tuple(values)))
