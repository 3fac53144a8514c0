"""``mcti convert``: convert token sets and embeddings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..escaping import escaped
from ..files.output_lock import lock_output
from ..files.writing import check_writable, refuse_to_replace
from ..tokens import LAYOUTS
from ..tokens.conversion import SourceClass, apply_operations, group, read_inputs, refuse_twins
from ..tokens.formats import SUFFIXES
from ..tokens.io import SUFFIX, export_embedding, is_token_set, refuse_foreign_tokens, save_tokens
from ..tokens.names import describe_words
from ..tokens.ops import merge
from .console import say

__all__ = ["run_convert"]


def run_convert(arguments: argparse.Namespace) -> int:
    """Apply the operations to the classes of all inputs and write them. Unreadable inputs are reported at the end."""
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
    refuse_foreign_tokens(paths, sets=arguments.format == "set")
    refuse_to_replace(paths, overwrite=arguments.overwrite)
    check_writable(paths[0].parent, (path.name for path in paths))
