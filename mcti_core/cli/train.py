"""``mcti train``, and the outputs and configuration it shares with other commands that train."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..distributed import SINGLE_PROCESS
from ..errors import FileError, MCTIError, ResumeError
from ..escaping import escaped
from ..training.errors import StopTraining, TrainingError
from .console import progress_bar, say
from .figures import OUTCOMES, training_figures
from .option_checks import check_new_tokens
from .options import config_of, examples_of, features_of, host_of, processes_of
from .run_config import RUN_CONFIG, write_run_config
from .train_monitor import check_monitoring, earlier_logs, held_out_of, monitored, remove_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ..data.dataset import FewShotDataset
    from ..data.feature_cache import FeatureCache
    from ..distributed import DistributedContext
    from ..hosts.base import Host
    from ..tokens.token_set import TokenSet
    from ..training.config import TrainConfig
    from ..training.state import TrainState

__all__ = ["INTERRUPTED", "UNFINISHED", "check_outputs", "config_for", "outputs_of", "run_train", "write_tokens"]

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
_DESCRIPTIONS = ("loss.png", "README.md", RUN_CONFIG)
UNFINISHED = "training.safetensors"
"""Checkpoint in ``--output-dir``, removed when training is finished."""
_MIN_FREE_BYTES, _BYTES_PER_VECTOR = 2**20, 8 * 2**13
"""Disk space in bytes. A checkpoint holds four copies of a vector, 8 KiB each for SDXL, and exists twice during replacement."""


def run_train(arguments: argparse.Namespace) -> int:
    from ..data.dataset import few_shot_split
    from ..data.label_table import read_corrections, relabelled
    from ..files.output_lock import lock_output
    from ..training.initial import names_like

    trained = _start_from(arguments)
    dataset, others = examples_of(arguments), None
    if arguments.corrections:
        dataset = relabelled(dataset, read_corrections(arguments.corrections))
    if arguments.shots:
        seed = config_of(arguments).seed
        few, rest = few_shot_split(dataset.labels, dataset.classes, arguments.shots, seed, least_left=0)
        whole = len(dataset.labels[rest].unique()) == len(dataset.classes)
        dataset, others = dataset.pick(few), dataset.pick(rest) if whole else None
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
    from ..training.initial import new_tokens, take_over
    from ..training.resume import describe_differences, run_identity
    from .signals import signals_as_keyboard_interrupt, stop_on_signals

    path = arguments.output_dir / UNFINISHED
    state = _unfinished(path, arguments, outputs, processes)
    host = host_of(arguments, processes)
    config = config_for(host, arguments, processes)
    check_new_tokens(host, config, arguments.num_vectors, arguments.initializer_token)
    cache = features_of(arguments, host, dataset, processes)
    tokens = new_tokens(
        host,
        dataset.classes,
        num_vectors=arguments.num_vectors,
        initializer_token=arguments.initializer_token,
        seed=config.seed,
    )
    tokens = tokens if trained is None else take_over(tokens, trained)
    if state is not None:
        if differences := describe_differences(state.identity, run_identity(host, cache, tokens, config)):
            raise ResumeError(
                f"{path} belongs to a different training ({differences}); give the same folder and options to resume it, start over "
                "with --restart, or take over its vectors in another --output-dir with --start-from"
            )
        say(f"resuming after {state.step} steps", shown=processes.is_main)
    elif processes.is_main:
        remove_samples(arguments)
    with signals_as_keyboard_interrupt() if processes.count == 1 else stop_on_signals() as asked:
        return _train(host, cache, held_out, config, tokens, state, arguments, processes, asked)


def _start_from(arguments: argparse.Namespace) -> TokenSet | None:
    """Load the token set to continue from. Its vectors per token, pooling and templates are the defaults of these options."""
    from ..tokens.io import load_tokens

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


def outputs_of(arguments: argparse.Namespace, names: Sequence[str]) -> list[Path]:
    """Results of a training in ``--output-dir``: token set, one embedding per name, and their descriptions."""
    from ..tokens.io import SUFFIX

    out = arguments.output_dir
    embeddings = (out / "embeddings" / f"{name}{SUFFIX}" for name in names)
    return [out / f"tokens{SUFFIX}", *embeddings, *(out / name for name in _DESCRIPTIONS)]


def check_outputs(arguments: argparse.Namespace, outputs: Sequence[Path], num_vectors: int) -> None:
    """Check that a training can write to ``--output-dir`` and ``--cache``, before the model is loaded.

    Args:
        outputs: the paths of ``outputs_of``.
        num_vectors: number of vectors per token.

    Raises:
        FileError: a foreign file would be replaced, a folder cannot be written to, or disk space is too low.
    """
    from ..files.provenance import is_marked
    from ..files.writing import check_writable, refuse_foreign
    from ..tokens.io import refuse_foreign_tokens
    from ..training.checkpoint import is_training

    tokens = outputs[: -len(_DESCRIPTIONS)]
    refuse_foreign(arguments.output_dir / UNFINISHED, is_training)
    for path in outputs[-len(_DESCRIPTIONS) :]:
        refuse_foreign(path, is_marked)
    refuse_foreign_tokens(tokens[:1], sets=True)
    refuse_foreign_tokens(tokens[1:], sets=False)
    check_writable(
        arguments.output_dir, [UNFINISHED], room=_MIN_FREE_BYTES + len(tokens) * num_vectors * _BYTES_PER_VECTOR
    )
    check_writable(arguments.output_dir / "embeddings", (path.name for path in tokens))
    if arguments.cache is not None:
        check_writable(arguments.cache)


def _unfinished(
    path: Path, arguments: argparse.Namespace, outputs: Sequence[Path], processes: DistributedContext
) -> TrainState | None:
    """The checkpoint to resume from, if any.

    Raises:
        FileError: a result would be replaced.
        ResumeError: a checkpoint exists without --resume or --restart, is damaged, or is not shared by all processes.
    """
    from ..files.writing import refuse_to_replace

    if not path.exists():  # otherwise the results are those of the unfinished training
        refuse_to_replace([*outputs, *earlier_logs(arguments)], overwrite=arguments.overwrite)
    stored = _stored(path, arguments, processes)
    # also a barrier: no process writes before all have read
    read = processes.gather(None if stored is None else stored.step)
    if any(step != read[0] for step in read):
        raise ResumeError(
            f"the processes do not read the same {path}; choose a folder that all machines share for --output-dir"
        )
    return stored


def _stored(path: Path, arguments: argparse.Namespace, processes: DistributedContext) -> TrainState | None:
    from ..training.checkpoint import load_checkpoint

    if arguments.restart:
        return None
    if not path.exists():
        if arguments.resume:
            say(f"no unfinished training in {path.parent}; starting from the beginning", shown=processes.is_main)
        return None
    if arguments.resume:
        try:
            return load_checkpoint(path)
        except ResumeError as error:
            raise ResumeError(f"{error}; start over with --restart, or choose another --output-dir") from error
    raise ResumeError(
        f"{path} holds an unfinished training; continue with --resume, start over with --restart, or choose another --output-dir"
    )


def _train(
    host: Host, cache: FeatureCache, held_out: FewShotDataset | None, config: TrainConfig, tokens: TokenSet,
    state: TrainState | None, arguments: argparse.Namespace, processes: DistributedContext, asked: Callable[[], bool] | None,
) -> int:  # fmt: skip
    """Train, then write the results. Only the first process writes; it keeps the checkpoint until all results are written."""
    from ..training.autosave import AutoSaver
    from ..training.loop import StepInfo, train

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
            if asked is not None and asked():
                raise StopTraining

        try:
            result = train(host, cache, tokens, config, on_step=on_step, resume=state, processes=processes)
        except TrainingError as error:
            if processes.is_main:
                write_tokens(error.tokens, out)
            processes.barrier()  # the first process to exit ends the others
            raise TrainingError(
                f"{error}; the last finite tokens are in {out / 'tokens.safetensors'}", error.tokens
            ) from error
    if not processes.is_main:
        return INTERRUPTED if result.stop_reason == "interrupted" else 0
    try:
        write_tokens(result.tokens, out, training_figures(host, result))
        _write_loss_curve(result.history, out)
        write_run_config(arguments, config, out / RUN_CONFIG)
    except (MCTIError, OSError) as error:  # for example a new foreign file, or a full disk
        if not path.exists():
            raise
        raise FileError(f"{error}; the training is saved in {path}; fix this, and continue with --resume") from error
    done = f"after {result.steps} steps" if result.stop_reason != "max_steps" else f"in {result.seconds:.0f} s"
    if "gamma_last" in result.tokens.training:
        done += f", gamma {result.tokens.training['gamma_last']:.2g} at the end"
    print(
        escaped(f"{OUTCOMES[result.stop_reason]} {done}: {len(result.tokens)} tokens in {out / 'tokens.safetensors'}")
    )
    if result.stop_reason == "interrupted":
        if path.exists():
            print("run the same command with --resume to continue")
        return INTERRUPTED
    autosave.remove()
    return 0


def write_tokens(tokens: TokenSet, folder: Path, figures: Mapping[str, str] | None = None) -> None:
    """Write the token set, its embeddings and its model card; report embeddings of an earlier run in the same folder."""
    from ..tokens.clip_words import describe_words
    from ..tokens.earlier_sets import stale_embeddings

    path = tokens.save_pretrained(folder, figures=figures)
    remedy = f"mcti convert {path} --format embeddings --prefix my- --output FOLDER makes names of their own"
    say(describe_words(tokens.names, remedy))
    if stale := stale_embeddings(folder / "embeddings", tokens.names):
        say(
            f"{folder / 'embeddings'} also contains embeddings of other sets: {', '.join(stale)}; move them away, since "
            "programs read all of a folder"
        )


def _write_loss_curve(history: Any, folder: Path) -> None:
    from ..files.provenance import write_png
    from ..viz.plots import loss_curves

    try:
        picture = loss_curves({"": history})
    except MCTIError as error:  # no step is finished
        say(f"no loss.png: {error}")
        return
    write_png(picture, folder / "loss.png")
