"""``mcti convert``: convert token sets and embeddings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..escaping import escaped
from . import argument_types as types
from .console import say
from .options import add_overwriting

if TYPE_CHECKING:
    from ..tokens.conversion import SourceClass

__all__ = ["add_convert", "run_convert"]

LAYOUTS = ("comfyui", "diffusers", "onetrainer")
"""``tokens.io.LAYOUTS``, without what that imports."""


def add_convert(command: argparse.ArgumentParser) -> None:
    """Add the options of ``mcti convert``."""
    option = command.add_argument
    known = "token sets, embeddings (.safetensors, .pt, .bin, images of the A1111 web UI), folders of them"
    option("inputs", type=types.path, nargs="+", metavar="IN", help=known)
    option("--output", "-o", type=types.path_text, required=True, help="the set's file, or the embeddings' folder")
    kinds = ("set", "embeddings")
    option("--format", choices=kinds, required=True, help="one file for all classes, or one file per class")
    layout = f"of the embeddings of SD 1.x and 2.x; {LAYOUTS[0]} if not given, the only one that InvokeAI recognises"
    option("--layout", choices=LAYOUTS, help=layout)
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
        if wrong := [value for value in values if kind == "rename" and "=" not in value]:
            raise argparse.ArgumentError(self, f"must be OLD=NEW, got {wrong[0]!r}")
        if before and before[-1][0] == kind == "select":  # --select a --select b is --select a b
            values = [*before.pop()[1], *values]
        namespace.operations = (*before, (kind, tuple(values)))


def run_convert(arguments: argparse.Namespace) -> int:
    """Apply the operations to the classes of all inputs and write them. Unreadable inputs are reported at the end."""
    from ..files.output_lock import lock_output
    from ..tokens.conversion import apply_operations, read_inputs

    _refuse_wrong_out(arguments)
    inputs = read_inputs(arguments.inputs)
    try:
        if inputs.classes:
            classes = apply_operations(inputs.classes, arguments.operations, arguments.prefix)
            with lock_output(arguments.output.parent if arguments.format == "set" else arguments.output, folder=True):
                (_write_sets if arguments.format == "set" else _write_embeddings)(classes, arguments)
    finally:
        for problem in inputs.skipped + inputs.failed:
            say(problem)
    return 1 if inputs.failed else 0


def _refuse_wrong_out(arguments: argparse.Namespace) -> None:
    """Raise a ``ConfigError`` for an ``--output`` of the wrong kind. Sets ``output`` to a ``Path`` and the default ``layout``."""
    from ..tokens.formats import SUFFIXES
    from ..tokens.io import SUFFIX

    is_set, is_folder = arguments.format == "set", arguments.output.endswith(("/", os.sep))
    if is_set and arguments.layout is not None:
        raise ConfigError(
            "--layout is of embeddings, and a token set has one layout; leave it out, or give --format embeddings"
        )
    arguments.layout = arguments.layout or LAYOUTS[0]
    out = arguments.output = Path(arguments.output)
    if is_set and (is_folder or out.is_dir()):
        raise ConfigError(f"--output {out} is a folder; name the set's file, as in {out / 'tokens.safetensors'}")
    if is_set and out.suffix.lower() in set(SUFFIXES) - {SUFFIX}:
        name = out.with_suffix(SUFFIX)
        raise ConfigError(f"--output {out}: a token set is written as {SUFFIX} only; name {name}")
    if not is_set and out.suffix == SUFFIX and not out.is_dir():
        raise ConfigError(f"--output {out} is a file's name; embeddings are a file each, so name a folder")


def _write_sets(classes: Sequence[SourceClass], arguments: argparse.Namespace) -> None:
    """Write one set, or one per group if embeddings are incompatible."""
    from ..tokens.conversion import group, refuse_twins
    from ..tokens.io import SUFFIX, is_token_set, save_tokens
    from ..tokens.ops import merge

    stem, groups = str(arguments.output).removesuffix(SUFFIX), group(classes)
    if len(groups) == 1 or any(map(is_token_set, arguments.inputs)):  # merge() reports incompatible sets
        groups = {"": list(classes)}
    for together in groups.values():
        refuse_twins(together)
    sets = {
        Path(f"{stem}-{name}{SUFFIX}" if name else f"{stem}{SUFFIX}"): merge(*(one.tokens for one in together))
        for name, together in groups.items()
    }
    _check_outputs(list(sets), arguments)
    for path, tokens in sets.items():
        print(escaped(str(save_tokens(tokens, path))))
    different = "embeddings of other text encoders, numbers of vectors or templates do not go together"
    say(f"{different}; each kind has its own set", shown=len(sets) > 1)


def _write_embeddings(classes: Sequence[SourceClass], arguments: argparse.Namespace) -> None:
    from ..tokens.conversion import refuse_twins
    from ..tokens.io import SUFFIX, export_embedding
    from ..tokens.names import describe_words

    refuse_twins(classes)
    paths = [arguments.output / f"{one.name}{SUFFIX}" for one in classes]
    _check_outputs(paths, arguments)
    labels = [one.label for one in classes]
    for one in classes:
        print(escaped(str(export_embedding(one.tokens, 0, arguments.output, layout=arguments.layout, labels=labels))))
    say(describe_words([one.name for one in classes], "--prefix my- makes them names of their own"))
    if arguments.layout != LAYOUTS[0] and any(len(one.tokens.vectors) == 1 for one in classes):
        unknown = f"InvokeAI's model manager does not recognise the layout {arguments.layout}"
        say(f"{unknown}; write it with --layout {LAYOUTS[0]} for InvokeAI")


def _check_outputs(paths: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Raise a ``FileError`` if a foreign file or an earlier result is there, or a file cannot be written."""
    from ..files.writing import check_writable, refuse_to_replace
    from ..tokens.io import refuse_foreign_tokens

    refuse_foreign_tokens(paths, sets=arguments.format == "set")
    refuse_to_replace(paths, overwrite=arguments.overwrite)
    check_writable(paths[0].parent, (path.name for path in paths))
