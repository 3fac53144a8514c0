"""``mcti train``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from ..data.dataset import FewShotDataset, few_shot_split
from ..data.feature_cache import FeatureCache
from ..data.label_table import read_corrections, relabelled
from ..distributed import SINGLE_PROCESS, DistributedContext
from ..errors import FileError, MCTIError, ResumeError
from ..escaping import escaped
from ..files.output_lock import lock_output
from ..files.writing import refuse_to_replace
from ..hosts.base import Host
from ..tokens.io import load_tokens
from ..tokens.token_set import TokenSet
from ..training.autosave import AutoSaver
from ..training.checkpoint import load_checkpoint
from ..training.config import TrainConfig
from ..training.errors import StopTraining, TrainingError
from ..training.initial import names_like, new_tokens, take_over
from ..training.loop import StepInfo, train
from ..training.resume import describe_differences, run_identity
from ..training.state import TrainState
from .console import INTERRUPTED, progress_bar, say
from .options import check_new_tokens, config_of, examples_of, features_of, host_of, processes_of
from .run_config import RUN_CONFIG, write_run_config
from .signals import signals_as_keyboard_interrupt, stop_on_signals
from .train_monitor import check_monitoring, earlier_logs, held_out_of, monitored, remove_samples
from .train_outputs import OUTCOMES, UNFINISHED, check_outputs, outputs_of, write_tokens, write_training

__all__ = ["config_for", "run_train"]


def run_train(arguments: argparse.Namespace) -> int:
    trained = _start_from(arguments)
    dataset, others = examples_of(arguments), None
    if arguments.corrections:
        dataset = relabelled(dataset, read_corrections(arguments.corrections))
    if arguments.shots:
        seed = config_of(arguments).seed
        few, rest = few_shot_split(dataset.labels, dataset.classes, arguments.shots, seed, least_left=0)
        left_in_all = len(dataset.labels[rest].unique()) == len(dataset.classes)
        dataset, others = dataset.pick(few), dataset.pick(rest) if left_in_all else None
    held_out = held_out_of(arguments, dataset.classes, others)
    processes = processes_of(arguments)
    outputs = outputs_of(arguments, names := names_like(dataset.classes, trained))
    if processes.is_main:  # only one process, since the checks create and remove folders
        check_outputs(arguments, outputs, arguments.num_vectors)
        check_monitoring(arguments, dataset.classes, names)
    with lock_output(arguments.output_dir, folder=True) if processes.is_main else nullcontext():
        return _run_train(arguments, dataset, trained, held_out, outputs, processes)


def _run_train(
    arguments: argparse.Namespace, dataset: FewShotDataset, trained: TokenSet | None, held_out: FewShotDataset | None,
    outputs: Sequence[Path], processes: DistributedContext,
) -> int:  # fmt: skip
    path = arguments.output_dir / UNFINISHED
    state = _unfinished(path, arguments, outputs, processes)
    host = host_of(arguments, processes)
    config = config_for(host, arguments, processes)
    check_new_tokens(host, config, arguments.num_vectors, arguments.initializer_token)
    cache = features_of(arguments, host, dataset, processes)
    start = {"num_vectors": arguments.num_vectors, "initializer_token": arguments.initializer_token}
    tokens = new_tokens(host, dataset.classes, seed=config.seed, **start)
    tokens = tokens if trained is None else take_over(tokens, trained)
    if state is not None:
        if differences := describe_differences(state.identity, run_identity(host, cache, tokens, config)):
            with_tokens = f", or take over the vectors of {outputs[0]} in another --output-dir with --start-from"
            raise ResumeError(
                f"{path} belongs to a different training ({differences}); give the same folder and options to resume it, or start over "
                f"with --restart{with_tokens if outputs[0].is_file() else ''}"  # no tokens after kill -9
            )
        say(f"resuming after {state.step} steps", shown=processes.is_main)
    elif processes.is_main:
        remove_samples(arguments)
    with signals_as_keyboard_interrupt() if processes.count == 1 else stop_on_signals() as stop_requested:
        return _train(host, cache, held_out, config, tokens, state, arguments, processes, stop_requested)


def _start_from(arguments: argparse.Namespace) -> TokenSet | None:
    """Load the token set to continue from. Its vectors per token, pooling and templates are the defaults of these options."""
    if arguments.start_from is None:
        return None
    trained = load_tokens(arguments.start_from)
    arguments.num_vectors = arguments.num_vectors or trained.vectors_per_token
    arguments.pooling = arguments.pooling or trained.pooling
    if not arguments.templates and not arguments.template:
        arguments.template = list(trained.templates)
    return trained


def config_for(
    host: Host, arguments: argparse.Namespace, processes: DistributedContext = SINGLE_PROCESS
) -> TrainConfig:
    """Return the training configuration; without a CLIP space, that of plain textual inversion, and say so."""
    config = config_of(arguments)
    if host.clip is not None or not config.gamma:
        return config
    say("no CLIP space (--clip): training plain textual inversion, gamma 0", shown=processes.is_main)
    return replace(config, gamma=0.0, classification_only_steps=0)


def _unfinished(
    path: Path, arguments: argparse.Namespace, outputs: Sequence[Path], processes: DistributedContext
) -> TrainState | None:
    """The checkpoint to resume from, if any.

    Raises:
        FileError: a result would be replaced.
        ResumeError: a checkpoint exists without --resume or --restart, is damaged, or is not shared by all processes.
    """
    exists = path.exists()
    if not exists:  # otherwise the results are those of the unfinished training
        refuse_to_replace([*outputs, *earlier_logs(arguments)], overwrite=arguments.overwrite)
        beginning = f"no unfinished training in {path.parent}; starting from the beginning"
        say(beginning, shown=arguments.resume and processes.is_main)
    elif not arguments.resume and not arguments.restart:
        raise ResumeError(
            f"{path} holds an unfinished training; continue with --resume, start over with --restart, or choose another --output-dir"
        )
    try:
        state = load_checkpoint(path) if exists and arguments.resume else None
    except ResumeError as error:
        raise ResumeError(f"{error}; start over with --restart, or choose another --output-dir") from error
    # also a barrier: no process writes before all have read
    steps = processes.gather(None if state is None else state.step)
    if any(step != steps[0] for step in steps):
        raise ResumeError(
            f"the processes do not read the same {path}; choose a folder that all machines share for --output-dir"
        )
    return state


def _train(
    host: Host, cache: FeatureCache, held_out: FewShotDataset | None, config: TrainConfig, tokens: TokenSet, state: TrainState | None,
    arguments: argparse.Namespace, processes: DistributedContext, stop_requested: Callable[[], bool] | None,
) -> int:  # fmt: skip
    """Train, then write the results. Only the first process writes; it keeps the checkpoint until all results are written."""
    out, path = arguments.output_dir, arguments.output_dir / UNFINISHED
    autosave = AutoSaver(path, every=arguments.save_every, log=say)
    with (
        autosave if processes.is_main else nullcontext(),
        monitored(arguments, host, config, held_out, processes) as monitor,
        progress_bar("training", "step", shown=processes.is_main) as progress,
    ):

        def on_step(info: StepInfo) -> None:
            if processes.is_main:
                autosave.on_step(info)
            monitor(info)
            progress(info.step, info.total)
            if stop_requested is not None and stop_requested():
                raise StopTraining

        try:
            result = train(host, cache, tokens, config, on_step=on_step, resume=state, processes=processes)
        except TrainingError as error:
            if processes.is_main:
                write_tokens(error.tokens, out)
            processes.barrier()  # the first process to exit ends the others
            last = f"{error}; the last finite tokens are in {out / 'tokens.safetensors'}"
            raise TrainingError(last, error.tokens) from error
    if not processes.is_main:
        return INTERRUPTED if result.stop_reason == "interrupted" else 0
    try:
        write_training(host, result, out)
        write_run_config(arguments, config, out / RUN_CONFIG)
    except (MCTIError, OSError) as error:  # for example a new foreign file, or a full disk
        if not path.exists():
            raise
        raise FileError(f"{error}; the training is saved in {path}; fix this, and continue with --resume") from error
    done = f"in {result.seconds:.0f} s" if result.stop_reason == "max_steps" else f"after {result.steps} steps"
    if "gamma_last" in result.tokens.training:
        done += f", gamma {result.tokens.training['gamma_last']:.2g} at the end"
    saved = f"{len(result.tokens)} tokens in {out / 'tokens.safetensors'}"
    print(escaped(f"{OUTCOMES[result.stop_reason]} {done}: {saved}"))
    if result.stop_reason == "interrupted":
        if path.exists():
            print("run the same command with --resume to continue")
        return INTERRUPTED
    autosave.remove()
    return 0
