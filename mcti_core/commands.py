"""The commands of ``mcti``, one function each: they read arguments, call the library, and tell what came of it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .console import new_bar, progress_bar
from .errors import MCTIError, ResumeError, TrainingError
from .options import config_of, host_of, images_of, mirror_of

if TYPE_CHECKING:
    from pathlib import Path

    from .config import TrainConfig
    from .features import FeatureCache
    from .hosts.base import Host
    from .progress_store import StoredTraining
    from .resuming import Start
    from .tokens import TokenSet

__all__ = ["INTERRUPTED", "run_classify", "run_demo", "run_evaluate", "run_generate", "run_train"]

INTERRUPTED = 130
"""The exit code after Ctrl-C."""
UNFINISHED = "training.safetensors"
"""In a training's folder, until it is finished."""


def run_train(arguments: argparse.Namespace) -> int:
    from .endings import like_ctrl_c
    from .examples import FewShotDataset
    from .experiments import new_tokens
    from .features import FeatureCache
    from .resuming import Start, go_on
    from .training import run_identity

    dataset = FewShotDataset.from_folder(arguments.folder)
    arguments.out.mkdir(parents=True, exist_ok=True)  # better now than after the training
    path = arguments.out / UNFINISHED
    stored = _unfinished(path, arguments)
    host, config, mirror = host_of(arguments), config_of(arguments), mirror_of(arguments)
    if arguments.shots:
        dataset, _ = dataset.split(arguments.shots, config.seed)
    if host.clip is None and config.gamma:
        _say("no CLIP space (--clip): training plain textual inversion, gamma 0")
        config = replace(config, gamma=0.0, warm_start=0)
    with progress_bar("features", "image") as progress:
        cache = FeatureCache.build(host, dataset, mirror=mirror, folder=arguments.cache, progress=progress)
    tokens = new_tokens(host, dataset.classes, vectors=arguments.vectors, init=arguments.init, seed=config.seed)
    start = Start(tokens)
    if stored is not None:
        anyway = arguments.resume == "anyway"
        start = go_on(stored, tokens, lambda first: run_identity(host, cache, first, config), path, anyway)
        _say(f"going on after {start.state.step} steps" if start.state else "beginning with the vectors learned so far")
    with like_ctrl_c():
        return _train(host, cache, config, start, arguments)


def _unfinished(path: Path, arguments: argparse.Namespace) -> StoredTraining | None:
    """The training to go on with. Told before anything slow: that there is none, or that one would be lost."""
    from .progress_store import load_training

    if arguments.restart:
        return None
    if not path.exists():
        if arguments.resume:
            _say(f"there is no unfinished training in {path.parent}; beginning anew")
        return None
    if arguments.resume:
        try:
            return load_training(path)
        except ResumeError as error:
            raise ResumeError(f"{error}; begin anew with --restart, or choose another --out") from error
    raise ResumeError(
        f"{path} keeps an unfinished training; go on with it by --resume, begin anew by --restart, or choose another --out"
    )


def _train(host: Host, cache: FeatureCache, config: TrainConfig, start: Start, arguments: argparse.Namespace) -> int:
    """Train, write what was learned, and keep the training itself until that is done."""
    from .keeping import Keeping
    from .memory import train_in_memory
    from .training import StepInfo

    out, path = arguments.out, arguments.out / UNFINISHED
    with (
        Keeping(path, first=start.first, every=arguments.keep_every, tell=_say) as keeping,
        progress_bar("training", "step") as progress,
    ):

        def on_step(info: StepInfo) -> None:
            keeping.on_step(info)
            progress(info.step, info.total)

        try:
            result = train_in_memory(host, cache, start.tokens, config, on_step=on_step, resume=start.state)
        except TrainingError as error:
            _write_tokens(error.tokens, out)
            raise
    _write_tokens(result.tokens, out)
    _write_loss_curve(result.history, out)
    done = f"after {result.steps} steps" if result.stopped != "finished" else f"in {result.seconds:.0f} s"
    print(f"{result.stopped} {done}: {len(result.tokens)} tokens in {out / 'tokens.safetensors'}")
    if result.stopped == "stopped":
        if path.exists():
            print("the same command with --resume goes on from here")
        return INTERRUPTED
    keeping.remove()
    return 0


def _say(sentence: str) -> None:
    print(f"mcti: {sentence}", file=sys.stderr)


def _write_tokens(tokens: TokenSet, folder: Path) -> None:
    from .token_files import export_embeddings, save_tokens

    save_tokens(tokens, folder / "tokens.safetensors")
    export_embeddings(tokens, folder / "embeddings")


def _write_loss_curve(history: Any, folder: Path) -> None:
    from .atomic import write_atomically
    from .plots import loss_curves

    try:
        picture = loss_curves({"": history})
    except MCTIError as error:  # there is no finished step to draw
        _say(f"no loss.png: {error}")
        return
    write_atomically(folder / "loss.png", lambda temporary: picture.save(temporary, "PNG"))


def run_classify(arguments: argparse.Namespace) -> int:
    import torch

    from .calibration import calibrated_classifier
    from .classifiers import predict
    from .examples import load_image, to_square
    from .token_files import load_tokens

    tokens = load_tokens(arguments.tokens)
    paths = images_of(arguments.images)
    host = host_of(arguments)
    classifier = calibrated_classifier(arguments.method, host, tokens, find_threshold=arguments.unknown)
    threshold = classifier.threshold if arguments.unknown else arguments.threshold or 0.0
    failed = 0
    for start in range(0, len(paths), arguments.batch):
        readable, images = [], []
        for path in paths[start : start + arguments.batch]:
            try:
                images.append(to_square(load_image(path), host.image_size))
                readable.append(path)
            except MCTIError as error:
                failed += 1
                print(f"mcti: {error}", file=sys.stderr)
        if not images:
            continue
        scores = classifier.score(torch.stack(images))
        answers = predict(
            classifier.labels, scores, temperature=classifier.temperature, threshold=threshold, top=arguments.top
        )
        for path, answer in zip(readable, answers, strict=True):
            if arguments.json:
                top = [{"label": label, "confidence": round(confidence, 6)} for label, confidence in answer.top]
                record = {
                    "image": str(path),
                    "label": answer.label,
                    "index": answer.index,
                    "confidence": round(answer.confidence, 6),
                }
                print(
                    json.dumps({**record, "top": top, "unet_evaluations": answer.evaluations}, ensure_ascii=False),
                    flush=True,
                )
            else:
                best = "  ".join(f"{label} {100 * confidence:.1f}%" for label, confidence in answer.top)
                print(f"{path}\t{answer.label}\t{best}", flush=True)
    return 1 if failed else 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    from .atomic import write_atomically
    from .examples import FewShotDataset
    from .experiments import DEFAULT_VARIANTS, STUDY, Row, as_json, evaluate, markdown_table
    from .features import FeatureCache

    dataset = FewShotDataset.from_folder(arguments.folder)
    host, config = host_of(arguments), config_of(arguments)
    with progress_bar("features", "image") as progress:
        cache = FeatureCache.build(
            host, dataset, mirror=mirror_of(arguments), folder=arguments.cache, progress=progress
        )
    rows: list[Row] = []

    def on_row(row: Row) -> None:
        rows.append(row)
        print(
            f"{row.shots} shots, seed {row.seed}: {row.method} {100 * row.accuracy:.1f}% ({row.seconds:.1f} s)",
            file=sys.stderr,
            flush=True,
        )
        if arguments.json is not None:
            content = {
                "folder": arguments.folder.name,
                "classes": len(dataset.classes),
                "chance": 1 / len(dataset.classes),
                "rows": as_json(rows),
            }
            text = json.dumps(content, indent=1)
            write_atomically(arguments.json, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    variants = STUDY if arguments.study else DEFAULT_VARIANTS
    evaluate(
        host,
        cache,
        arguments.shots,
        seeds,
        config,
        variants,
        vectors=arguments.vectors,
        init=arguments.init,
        on_row=on_row,
    )
    print(markdown_table(rows, 1 / len(dataset.classes)))
    return 0


def run_generate(arguments: argparse.Namespace) -> int:
    import numpy as np
    from PIL import Image

    from .sampling import generate
    from .token_files import load_tokens

    tokens = load_tokens(arguments.tokens)
    fillings = tokens.names if "{}" in arguments.prompt else ("",)
    prompts = [arguments.prompt.replace("{}", f"{{{name}}}") for name in fillings for _ in range(arguments.count)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    stems = [f"{name or 'image'}-{number:02d}" for name in fillings for number in range(arguments.count)]
    with progress_bar("generating", "image") as progress:
        images = generate(
            host_of(arguments), prompts, tokens, negative=arguments.negative, steps=arguments.steps, guidance=arguments.guidance,
            seed=arguments.seed, progress=progress,
        )  # fmt: skip
    for stem, image in zip(stems, images, strict=True):
        Image.fromarray((image.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)).save(
            arguments.out / f"{stem}.png"
        )
    print(f"{len(images)} images in {arguments.out}")
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
    print(f"report: {arguments.out / 'report.html'}")
    return 0
