"""``mcti add``: add classes to a trained token set."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..data.near_duplicates import example_names
from ..errors import ConfigError
from ..escaping import escaped
from ..files.output_lock import lock_output
from ..files.writing import refuse_to_replace
from ..tokens.io import load_tokens
from ..tokens.names import index_of, safe_names
from ..tokens.ops import select
from ..tokens.token_set import TokenSet
from ..training.errors import TrainingError
from ..training.extend import add_classes, describe_learned_before, new_labels
from .console import INTERRUPTED, progress_bar, say
from .options import check_new_tokens, examples_of, features_of, host_of
from .signals import signals_as_keyboard_interrupt
from .train import config_for
from .train_outputs import OUTCOMES, UNFINISHED, check_outputs, outputs_of, write_tokens

__all__ = ["run_add"]


def run_add(arguments: argparse.Namespace) -> int:
    """Train only the new classes. Learned tokens are saved even if the training is interrupted or fails."""
    before = tokens = load_tokens(arguments.tokens)
    dataset = examples_of(arguments, min_classes=1)
    if arguments.replace:
        kept = [label for label in before.labels if index_of(label, dataset.classes) is None]
        if not kept:
            raise ConfigError("--replace would leave no class of the set to compare with; use mcti train instead")
        tokens = select(before, kept)
    new_labels(dataset.classes, tokens)
    outputs = outputs_of(arguments, (*before.names, *safe_names(dataset.classes)))
    check_outputs(arguments, outputs, tokens.vectors_per_token)
    with lock_output(arguments.output_dir, folder=True), signals_as_keyboard_interrupt():
        unfinished = arguments.output_dir / UNFINISHED  # mcti train --resume would overwrite these tokens
        refuse_to_replace([unfinished, *outputs], overwrite=arguments.overwrite)
        host = host_of(arguments)
        config = config_for(host, arguments)
        word = arguments.initializer_token
        check_new_tokens(host, replace(config, templates=tokens.templates), tokens.vectors_per_token, word)
        cache = features_of(arguments, host, dataset)
        say(describe_learned_before(cache, tokens, example_names(dataset)))
        with progress_bar("training", "step") as progress:
            try:
                on_step = lambda info: progress(info.step, info.total)  # noqa: E731
                result = add_classes(host, cache, tokens, config, initializer_token=word, on_step=on_step)
            except TrainingError as error:
                write_tokens(_in_order(error.tokens, before), arguments.output_dir)
                last = f"{error}; the last finite tokens are in {arguments.output_dir / 'tokens.safetensors'}"
                raise TrainingError(last, error.tokens) from error
        write_tokens(_in_order(result.tokens, before), arguments.output_dir)
    added = ", ".join(result.tokens.labels[len(tokens) :])
    saved = f"{len(result.tokens)} tokens in {arguments.output_dir / 'tokens.safetensors'}"
    print(escaped(f"{OUTCOMES[result.stop_reason]} after {result.steps} steps: {added} added, {saved}"))
    return INTERRUPTED if result.stop_reason == "interrupted" else 0


def _in_order(learned: TokenSet, before: TokenSet) -> TokenSet:
    """Reorder the learned classes: those of ``before`` first, in their order and with their names."""
    rows = [index_of(label, learned.labels) for label in before.labels]
    known = [index for index in rows if index is not None]
    names = dict(zip(rows, before.names, strict=True))
    order = [*known, *sorted(set(range(len(learned))) - set(known))]
    return replace(learned.select(order), names=tuple(names.get(index, learned.names[index]) for index in order))
