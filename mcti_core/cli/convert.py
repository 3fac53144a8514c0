"""``mcti convert``: convert token sets and embeddings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..escaping import escaped
from .console import say

if TYPE_CHECKING:
    from ..tokens.conversion import SourceClass

__all__ = ["run_convert"]


def run_convert(arguments: argparse.Namespace) -> int:
    """Apply the operations to the classes of all inputs and write them. Unreadable inputs are reported at the end."""
    from ..files.output_lock import lock_output
    from ..tokens.conversion import apply_operations, read_inputs, with_prefix

    _refuse_wrong_out(arguments)
    inputs = read_inputs(arguments.inputs)
    try:
        if inputs.classes:
            classes = with_prefix(apply_operations(inputs.classes, arguments.operations), arguments.prefix)
            with lock_output(arguments.output.parent if arguments.format == "set" else arguments.output, folder=True):
                (_write_sets if arguments.format == "set" else _write_embeddings)(classes, arguments)
    finally:
        for problem in inputs.skipped + inputs.failed:
            say(problem)
    return 1 if inputs.failed else 0


def _refuse_wrong_out(arguments: argparse.Namespace) -> None:
    """Raise a ``ConfigError`` for an ``--output`` of the wrong kind. Sets ``output`` to a ``Path`` and the default ``layout``."""
    from ..tokens.formats import SUFFIXES
    from ..tokens.io import LAYOUTS, SUFFIX

    if arguments.format == "set" and arguments.layout is not None:
        raise ConfigError(
            "--layout is of embeddings, and a token set has one layout; leave it out, or give --format embeddings"
        )
    arguments.layout = arguments.layout or LAYOUTS[0]
    is_folder, arguments.output = str(arguments.output).endswith(("/", os.sep)), Path(arguments.output)
    if arguments.format == "set" and (is_folder or arguments.output.is_dir()):
        raise ConfigError(
            f"--output {arguments.output} is a folder; name the set's file, as in {arguments.output / 'tokens.safetensors'}"
        )
    if arguments.format == "set" and arguments.output.suffix.lower() in set(SUFFIXES) - {SUFFIX}:
        raise ConfigError(
            f"--output {arguments.output}: a token set is written as {SUFFIX} only; name {arguments.output.with_suffix(SUFFIX)}"
        )
    if arguments.format == "embeddings" and arguments.output.suffix == SUFFIX and not arguments.output.is_dir():
        raise ConfigError(f"--output {arguments.output} is a file's name; embeddings are a file each, so name a folder")


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
    if len(sets) > 1:
        say(
            "embeddings of other text encoders, numbers of vectors or templates do not go together; each kind has its own set"
        )


def _write_embeddings(classes: Sequence[SourceClass], arguments: argparse.Namespace) -> None:
    from ..tokens.clip_words import describe_words
    from ..tokens.conversion import refuse_twins
    from ..tokens.io import LAYOUTS, SUFFIX, export_embedding

    refuse_twins(classes)
    paths = [arguments.output / f"{one.name}{SUFFIX}" for one in classes]
    _check_outputs(paths, arguments)
    labels = [one.label for one in classes]
    for one in classes:
        print(escaped(str(export_embedding(one.tokens, 0, arguments.output, layout=arguments.layout, labels=labels))))
    say(describe_words([one.name for one in classes], "--prefix my- makes them names of their own"))
    if arguments.layout != LAYOUTS[0] and any(len(one.tokens.vectors) == 1 for one in classes):
        say(
            f"InvokeAI's model manager does not recognise the layout {arguments.layout}; write it with --layout {LAYOUTS[0]} for InvokeAI"
        )


def _check_outputs(paths: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Raise a ``FileError`` if a foreign file or an earlier result is there, or a file cannot be written."""
    from ..files.writing import check_writable, refuse_to_replace
    from ..tokens.io import refuse_foreign_tokens

    refuse_foreign_tokens(paths, sets=arguments.format == "set")
    refuse_to_replace(paths, overwrite=arguments.overwrite)
    check_writable(paths[0].parent, (path.name for path in paths))
