"""``mcti add``: teach a trained set more classes."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..escaping import escaped
from ..training.errors import TrainingError
from .console import progress_bar, say
from .option_checks import check_new_tokens
from .options import examples_of, features_of, host_of
from .train import INTERRUPTED, UNFINISHED, check_outputs, config_for, outputs_of, write_tokens

__all__ = ["run_add"]


def run_add(arguments: argparse.Namespace) -> int:
    """Train only the classes that the set lacks. However the training ends, what was learned is written."""
    from ..data.near_duplicates import example_names
    from ..files.output_lock import lock_output
    from ..files.outputs import refuse_to_replace
    from ..tokens.io import load_tokens
    from ..tokens.names import safe_names
    from ..training.extend import add_classes, new_labels, tell_learned_before
    from ..training.loop import StepInfo
    from .signals import signals_as_keyboard_interrupt

    tokens = load_tokens(arguments.to)
    dataset = examples_of(arguments, alone=True)
    new_labels(dataset.classes, tokens)
    outputs = outputs_of(arguments, (*tokens.names, *safe_names(dataset.classes)))
    check_outputs(arguments, outputs, tokens.vectors_per_token)
    with lock_output(arguments.out, folder=True), signals_as_keyboard_interrupt():
        unfinished = arguments.out / UNFINISHED  # of mcti train, which its --resume would write over these tokens
        refuse_to_replace([unfinished, *outputs], overwrite=arguments.overwrite)
        host = host_of(arguments)
        config = config_for(host, arguments)
        check_new_tokens(host, replace(config, templates=tokens.templates), tokens.vectors_per_token, arguments.init)
        cache = features_of(arguments, host, dataset)
        say(tell_learned_before(cache, tokens, example_names(dataset)))
        with progress_bar("training", "step") as progress:

            def on_step(info: StepInfo) -> None:
                progress(info.step, info.total)

            try:
                result = add_classes(host, cache, tokens, config, init=arguments.init, on_step=on_step)
            except TrainingError as error:
                write_tokens(error.tokens, arguments.out)
                raise TrainingError(
                    f"{error}; the last finite tokens are in {arguments.out / 'tokens.safetensors'}", error.tokens
                ) from error
        write_tokens(result.tokens, arguments.out)
    added = ", ".join(result.tokens.labels[len(tokens) :])
    print(
        escaped(
            f"{result.stopped} after {result.steps} steps: {added} added, {len(result.tokens)} tokens in "
            f"{arguments.out / 'tokens.safetensors'}"
        )
    )
    return INTERRUPTED if result.stopped == "stopped" else 0
