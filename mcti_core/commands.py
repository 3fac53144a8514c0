"""The commands of ``mcti``, one function each: they read arguments, call the library, and tell what came of it."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .console import new_bar, printable, progress_bar
from .errors import MCTIError, ResumeError, StopTraining, TrainingError
from .escaping import escaped
from .options import config_of, host_of, mirror_of, processes_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .config import TrainConfig
    from .features import FeatureCache
    from .hosts.base import Host
    from .processes import Processes
    from .progress_store import StoredTraining
    from .resuming import Start
    from .tokens import TokenSet

__all__ = ["INTERRUPTED", "run_demo", "run_evaluate", "run_generate", "run_train"]

INTERRUPTED = 130
"""The exit code after Ctrl-C."""
UNFINISHED = "training.safetensors"
"""In a training's folder, until it is finished."""


def run_train(arguments: argparse.Namespace) -> int:
    from .endings import asked_to_end, like_ctrl_c
    from .examples import FewShotDataset
    from .experiments import new_tokens
    from .features import FeatureCache
    from .resuming import Start, go_on
    from .training import run_identity

    dataset = FewShotDataset.from_folder(arguments.folder)
    _refuse_foreign_outputs(arguments.out, dataset.classes)
    arguments.out.mkdir(parents=True, exist_ok=True)  # better now than after the training
    processes, path = processes_of(arguments), arguments.out / UNFINISHED
    stored = _unfinished(path, arguments, processes)
    host, config, mirror = host_of(arguments, processes), config_of(arguments), mirror_of(arguments)
    if arguments.shots:
        dataset, _ = dataset.split(arguments.shots, config.seed)
    if host.clip is None and config.gamma:
        _say("no CLIP space (--clip): training plain textual inversion, gamma 0", processes)
        config = replace(config, gamma=0.0, warm_start=0)
    with progress_bar("features", "image", shown=processes.is_main) as progress:
        cache = FeatureCache.build(
            host, dataset, mirror=mirror, folder=arguments.cache, progress=progress, processes=processes
        )
    tokens = new_tokens(host, dataset.classes, vectors=arguments.vectors, init=arguments.init, seed=config.seed)
    start = Start(tokens)
    if stored is not None:
        anyway = arguments.resume == "anyway"
        start = go_on(stored, tokens, lambda first: run_identity(host, cache, first, config), path, anyway)
        kept = f"resuming after {start.state.step} steps" if start.state else "starting from the vectors learned so far"
        _say(kept, processes)
    with like_ctrl_c() if processes.count == 1 else asked_to_end() as asked:
        return _train(host, cache, config, start, arguments, processes, asked)


def _refuse_foreign_outputs(out: Path, labels: tuple[str, ...]) -> None:
    """Files of others, in place of those that a training will write."""
    from .marks import is_marked
    from .own_files import refuse_foreign
    from .progress_store import is_training
    from .token_files import SUFFIX, refuse_foreign_tokens
    from .tokens import safe_names

    refuse_foreign(out / UNFINISHED, is_training)
    refuse_foreign(out / "loss.png", is_marked)
    refuse_foreign_tokens(out / f"tokens{SUFFIX}")
    for name in safe_names(labels):
        refuse_foreign_tokens(out / "embeddings" / f"{name}{SUFFIX}")


def _unfinished(path: Path, arguments: argparse.Namespace, processes: Processes) -> StoredTraining | None:
    """The training to go on with. Told before anything slow: that there is none, or that one would be lost."""
    stored = _stored(path, arguments, processes)
    read = processes.gather(None if stored is None else stored.state.step)  # and nobody writes before all have read
    if any(step != read[0] for step in read):
        raise ResumeError(
            f"the processes do not read the same {path}; choose a folder that all machines share for --out"
        )
    return stored


def _stored(path: Path, arguments: argparse.Namespace, processes: Processes) -> StoredTraining | None:
    from .progress_store import load_training

    if arguments.restart:
        return None
    if not path.exists():
        if arguments.resume:
            _say(f"there is no unfinished training in {path.parent}; starting from the beginning", processes)
        return None
    if arguments.resume:
        try:
            return load_training(path)
        except ResumeError as error:
            raise ResumeError(f"{error}; start over with --restart, or choose another --out") from error
    raise ResumeError(
        f"{path} holds an unfinished training; continue with --resume, start over with --restart, or choose another --out"
    )


def _train(
    host: Host, cache: FeatureCache, config: TrainConfig, start: Start, arguments: argparse.Namespace,
    processes: Processes, asked: Callable[[], bool] | None,
) -> int:  # fmt: skip
    """Train, write what was learned, and keep the training itself until that is done: all this the first process alone."""
    from .keeping import Keeping
    from .memory import train_in_memory
    from .training import StepInfo

    out, path = arguments.out, arguments.out / UNFINISHED
    keeping = Keeping(path, first=start.first, every=arguments.keep_every, tell=_say)
    with (
        keeping if processes.is_main else nullcontext(),
        progress_bar("training", "step", shown=processes.is_main) as progress,
    ):

        def on_step(info: StepInfo) -> None:
            if processes.is_main:
                keeping.on_step(info)
            progress(info.step, info.total)
            if asked is not None and asked():
                raise StopTraining

        try:
            result = train_in_memory(
                host, cache, start.tokens, config, on_step=on_step, resume=start.state, processes=processes
            )
        except TrainingError as error:
            if processes.is_main:
                _write_tokens(error.tokens, out)
            processes.barrier()  # the first one to leave ends the others
            raise
    if not processes.is_main:
        return INTERRUPTED if result.stopped == "stopped" else 0
    _write_tokens(result.tokens, out)
    _write_loss_curve(result.history, out)
    done = f"after {result.steps} steps" if result.stopped != "finished" else f"in {result.seconds:.0f} s"
    if "gamma_last" in result.tokens.training:
        done += f", gamma {result.tokens.training['gamma_last']:.2g} at the end"
    print(printable(f"{result.stopped} {done}: {len(result.tokens)} tokens in {out / 'tokens.safetensors'}"))
    if result.stopped == "stopped":
        if path.exists():
            print("run the same command with --resume to continue")
        return INTERRUPTED
    keeping.remove()
    return 0


def _say(sentence: str, processes: Processes | None = None) -> None:
    if processes is None or processes.is_main:
        print(f"mcti: {escaped(sentence)}", file=sys.stderr)


def _write_tokens(tokens: TokenSet, folder: Path) -> None:
    from .token_files import export_embeddings, save_tokens

    save_tokens(tokens, folder / "tokens.safetensors")
    export_embeddings(tokens, folder / "embeddings")


def _write_loss_curve(history: Any, folder: Path) -> None:
    from .marks import write_png
    from .plots import loss_curves

    try:
        picture = loss_curves({"": history})
    except MCTIError as error:  # there is no finished step to draw
        _say(f"no loss.png: {error}")
        return
    write_png(picture, folder / "loss.png")


def run_evaluate(arguments: argparse.Namespace) -> int:
    from .examples import FewShotDataset
    from .experiments import DEFAULT_VARIANTS, STUDY, Row, as_json, evaluate, markdown_table
    from .features import FeatureCache
    from .marks import is_marked, write_json
    from .own_files import refuse_foreign

    if arguments.json is not None:
        refuse_foreign(arguments.json, is_marked)

    dataset, processes = FewShotDataset.from_folder(arguments.folder), processes_of(arguments, uneven=True)
    host, config = host_of(arguments, processes), config_of(arguments)
    with progress_bar("features", "image", shown=processes.is_main) as progress:
        cache = FeatureCache.build(
            host, dataset, mirror=mirror_of(arguments), folder=arguments.cache, progress=progress, processes=processes
        )
    rows: list[Row] = []

    def write() -> None:
        if arguments.json is None or not processes.is_main:
            return
        content = {
            "folder": arguments.folder.name,
            "classes": len(dataset.classes),
            "chance": 1 / len(dataset.classes),
            "rows": as_json(rows),
        }
        write_json(content, arguments.json)

    def on_row(row: Row) -> None:
        rows.append(row)
        print(
            f"{row.shots} shots, seed {row.seed}: {row.method} {100 * row.accuracy:.1f}% ({row.seconds:.1f} s)",
            file=sys.stderr,
            flush=True,
        )
        write()

    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    variants = STUDY if arguments.study else DEFAULT_VARIANTS
    measured = evaluate(
        host,
        cache,
        arguments.shots,
        seeds,
        config,
        variants,
        vectors=arguments.vectors,
        init=arguments.init,
        on_row=on_row,
        processes=processes,
    )
    if processes.count > 1:  # until now it had its own rows only
        rows[:] = measured
        write()
    if processes.is_main:
        print(markdown_table(rows, 1 / len(dataset.classes)))
    return 0


def run_generate(arguments: argparse.Namespace) -> int:
    import numpy as np
    from PIL import Image

    from .marks import is_marked, write_png
    from .own_files import refuse_foreign
    from .sampling import generate
    from .token_files import load_tokens

    tokens = load_tokens(arguments.tokens)
    fillings = tokens.names if "{}" in arguments.prompt else ("",)
    prompts = [arguments.prompt.replace("{}", f"{{{name}}}") for name in fillings for _ in range(arguments.count)]
    stems = [f"{name or 'image'}-{number:02d}" for name in fillings for number in range(arguments.count)]
    for stem in stems:  # all of them, before anything slow
        refuse_foreign(arguments.out / f"{stem}.png", is_marked)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with progress_bar("generating", "image") as progress:
        images = generate(
            host_of(arguments), prompts, tokens, negative=arguments.negative, steps=arguments.steps, guidance=arguments.guidance,
            seed=arguments.seed, progress=progress,
        )  # fmt: skip
    for stem, image in zip(stems, images, strict=True):
        picture = Image.fromarray((image.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))
        write_png(picture, arguments.out / f"{stem}.png")
    print(printable(f"{len(images)} images in {arguments.out}"))
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    from .demo.run import run_demo
    from .hosts.loading import quiet_libraries

    quiet_libraries()

    bars: dict[str, Any] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = new_bar(stage, "step", total)
        bars[stage].update(done - bars[stage].n)
        if done >= total:
            bars[stage].close()

    demo = run_demo(arguments.out, shots=arguments.shots, seed=arguments.seed, progress=progress)
    print(f"chance {100 / len(demo.classes):.1f}%")
    for name, share in demo.accuracy.items():
        print(f"{name} {100 * share:.1f}%")
    print(printable(f"report: {arguments.out / 'report.html'}"))
    return 0
