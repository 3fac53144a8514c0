"""The commands that work on learned tokens: ``mcti convert`` and ``mcti add``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .commands import INTERRUPTED
from .console import printable, progress_bar
from .errors import ConfigError, TokenError
from .options import config_of, host_of, mirror_of

if TYPE_CHECKING:
    from .tokens import TokenSet

__all__ = ["run_add", "run_convert"]


def run_convert(arguments: argparse.Namespace) -> int:
    """Everything given becomes one set; that is picked from, renamed, and written."""
    from .token_files import SUFFIX, export_embeddings, refuse_foreign_tokens, save_tokens
    from .token_sets import pick, rename

    tokens = _read(arguments.inputs)
    if arguments.pick:
        tokens = pick(tokens, arguments.pick)
    if arguments.names:
        if len(arguments.names) != len(tokens):
            raise ConfigError(
                f"there are {len(tokens)} classes ({', '.join(tokens.labels)}) and {len(arguments.names)} names"
            )
        tokens = rename(tokens, dict(zip(tokens.labels, arguments.names, strict=True)))
    if arguments.rename:
        tokens = rename(tokens, dict(arguments.rename))
    if arguments.to == "set":
        refuse_foreign_tokens(arguments.out if arguments.out.suffix == SUFFIX else Path(f"{arguments.out}{SUFFIX}"))
        written = [save_tokens(tokens, arguments.out)]
    else:
        for name in tokens.names:  # all of them, before anything is written
            refuse_foreign_tokens(arguments.out / f"{name}{SUFFIX}")
        written = export_embeddings(tokens, arguments.out, layout=arguments.layout)
    for path in written:
        print(printable(str(path)))
    return 0


def run_add(arguments: argparse.Namespace) -> int:
    """Train only the classes that the set lacks."""
    from .examples import FewShotDataset
    from .extend import extend
    from .features import FeatureCache
    from .token_files import SUFFIX, export_embeddings, load_tokens, refuse_foreign_tokens, save_tokens
    from .tokens import safe_names
    from .training import StepInfo

    tokens = load_tokens(arguments.to)
    dataset = FewShotDataset.from_folder(arguments.folder, alone=True)
    refuse_foreign_tokens(arguments.out / f"tokens{SUFFIX}")
    for name in (*tokens.names, *safe_names(dataset.classes)):
        refuse_foreign_tokens(arguments.out / "embeddings" / f"{name}{SUFFIX}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    host, config = host_of(arguments), config_of(arguments)
    if host.clip is None and config.gamma:
        config = replace(config, gamma=0.0, warm_start=0)
    with progress_bar("features", "image") as progress:
        cache = FeatureCache.build(
            host, dataset, mirror=mirror_of(arguments), folder=arguments.cache, progress=progress
        )
    with progress_bar("training", "step") as progress:

        def on_step(info: StepInfo) -> None:
            progress(info.step, info.total)

        result = extend(host, cache, tokens, config, init=arguments.init, on_step=on_step)
    path = save_tokens(result.tokens, arguments.out / "tokens.safetensors")
    export_embeddings(result.tokens, arguments.out / "embeddings")
    added = ", ".join(result.tokens.labels[len(tokens) :])
    print(
        printable(f"{result.stopped} after {result.steps} steps: {added} added, {len(result.tokens)} tokens in {path}")
    )
    return INTERRUPTED if result.stopped == "stopped" else 0


def _read(inputs: Sequence[Path]) -> TokenSet:
    """Sets and embeddings in the order given; all files of a folder."""
    from .token_files import import_embeddings, is_token_set, load_tokens
    from .token_formats import SUFFIXES
    from .token_sets import merge

    sets: list[TokenSet] = []
    embeddings: list[Path] = []
    for given in inputs:
        files = [given]
        if given.is_dir():
            files = sorted(path for path in given.iterdir() if path.suffix.lower() in SUFFIXES)
            if not files:
                raise TokenError(f"{given} holds no {', '.join(SUFFIXES)}")
        for path in files:
            if not is_token_set(path):
                embeddings.append(path)
                continue
            sets += [import_embeddings(embeddings)] if embeddings else []
            embeddings = []
            sets.append(load_tokens(path))
    return merge(*sets, *([import_embeddings(embeddings)] if embeddings else []))
