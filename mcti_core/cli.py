"""The command line: ``mcti train | classify | evaluate | generate | demo``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, MCTIError, TrainingError

if TYPE_CHECKING:
    from .classifiers import Classifier
    from .hosts.base import Host
    from .tokens import TokenSet
    from .training import TrainConfig

__all__ = ["main"]

METHODS = ("auto", "clip", "diffusion", "cascade", "hybrid")
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for a mistake that one can mend, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        return code
    except MCTIError as error:
        print(f"mcti: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mcti: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcti", description="Teach a text-to-image model many unnamed things; generate and classify them."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train", help="learn a token for each class folder", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    train.add_argument("folder", type=Path, help="holds one folder of images a class")
    train.add_argument("--out", type=Path, required=True, help="where tokens.safetensors, embeddings/ and loss.png go")
    _add_model(train)
    _add_training(train)
    train.add_argument("--shots", type=int, help="train on this many random images of each class instead of all")
    train.add_argument("--cache", type=Path, help="keep image features here for the next run")
    train.set_defaults(run=_train)

    classify = commands.add_parser(
        "classify", help="tell what images show", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    classify.add_argument("images", type=Path, nargs="+", help="images, or folders of images")
    classify.add_argument("--tokens", type=Path, required=True, help="a token set file")
    classify.add_argument(
        "--method", choices=METHODS, default="auto", help="auto is clip where there is a CLIP space, else diffusion"
    )
    classify.add_argument("--top", type=int, default=1, help="how many classes to name")
    classify.add_argument(
        "--unknown", action="store_true", help="say 'unknown' below the confidence that 95%% of the examples reach"
    )
    classify.add_argument("--threshold", type=float, help="say 'unknown' below this confidence")
    classify.add_argument("--json", action="store_true", help="one JSON object a line")
    classify.add_argument("--batch", type=int, default=32)
    _add_model(classify)
    classify.set_defaults(run=_classify)

    evaluate = commands.add_parser(
        "evaluate", help="measure accuracy over shots and seeds", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    evaluate.add_argument("folder", type=Path, help="holds one folder of images a class")
    evaluate.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8])
    evaluate.add_argument("--seeds", type=int, default=3, help="how many random splits")
    evaluate.add_argument("--first-seed", type=int, default=0)
    evaluate.add_argument(
        "--study", action="store_true", help="compare settings too: gamma, direction, pooling, templates, one by one"
    )
    evaluate.add_argument("--json", type=Path, help="write all measurements here, as they come")
    evaluate.add_argument("--cache", type=Path, help="keep image features here for the next run")
    _add_model(evaluate)
    _add_training(evaluate)
    evaluate.set_defaults(run=_evaluate)

    generate = commands.add_parser(
        "generate", help="draw with learned tokens", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    generate.add_argument("--tokens", type=Path, required=True, help="a token set file")
    generate.add_argument(
        "--prompt", required=True, help="'{}' draws every class; '{name}' or 'embedding:name' is one of them"
    )
    generate.add_argument("--negative", default="", help="what to stay away from")
    generate.add_argument("--out", type=Path, default=Path("generated"), help="folder for the images")
    generate.add_argument("--count", type=int, default=4, help="images of each prompt")
    generate.add_argument("--steps", type=int, default=25)
    generate.add_argument("--guidance", type=float, default=3.0)
    generate.add_argument("--seed", type=int, default=0)
    _add_model(generate)
    generate.set_defaults(run=_generate)

    demo = commands.add_parser(
        "demo", help="the whole method on handwritten digits", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    demo.add_argument(
        "--out", type=Path, required=True, help="where report.html, metrics.json and tokens.safetensors go"
    )
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--shots", type=int, default=5)
    demo.set_defaults(run=_demo)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", type=Path, help="a diffusers folder or single-file checkpoint; the pocket checkpoint if not given"
    )
    group.add_argument(
        "--clip", type=Path, help="a folder with the CLIP model that the checkpoint's text encoder comes from"
    )
    group.add_argument(
        "--config", type=Path, help="for a single file without network: a diffusers folder of its family"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, ...")
    group.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training", "what is not given is the model's own default")
    for name, kind in (
        ("steps", int),
        ("batch", int),
        ("lr", float),
        ("gamma", float),
        ("gamma-end", float),
        ("warm-start", int),
        ("seed", int),
    ):
        group.add_argument(f"--{name}", type=kind)
    group.add_argument("--direction", choices=("text_to_image", "image_to_text", "symmetric"))
    group.add_argument("--pooling", choices=("eot", "token"))
    group.add_argument("--templates", choices=("object", "style"))
    group.add_argument("--template", action="append", help="a prompt of your own with {} in it; may be repeated")
    group.add_argument("--vectors", type=int, default=1, help="vectors a token")
    group.add_argument("--init", help="first vector: a word, 'mean' or 'random'")
    group.add_argument("--mirror", action=argparse.BooleanOptionalAction, help="train on mirror images too")


def _train(arguments: argparse.Namespace) -> int:
    from .examples import FewShotDataset
    from .experiments import new_tokens
    from .features import FeatureCache
    from .training import StepInfo, train

    dataset = FewShotDataset.from_folder(arguments.folder)
    host, config, mirror = _host(arguments), _config(arguments), _mirror(arguments)
    if arguments.shots:
        dataset, _ = dataset.split(arguments.shots, config.seed)
    if host.clip is None and config.gamma:
        print("mcti: no CLIP space (--clip): training plain textual inversion, gamma 0", file=sys.stderr)
        config = replace(config, gamma=0.0, warm_start=0)
    with _bar("features", "image") as progress:
        cache = FeatureCache.build(host, dataset, mirror=mirror, folder=arguments.cache, progress=progress)
    tokens = new_tokens(host, dataset.classes, vectors=arguments.vectors, init=arguments.init, seed=config.seed)
    with _bar("training", "step") as progress:

        def on_step(info: StepInfo) -> None:
            progress(info.step, info.total)

        try:
            result = train(host, cache, tokens, config, on_step=on_step)
        except TrainingError as error:
            _write_tokens(error.tokens, arguments.out)
            raise
    _write_tokens(result.tokens, arguments.out)
    _write_loss_curve(result.history, arguments.out)
    done = f"after {result.steps} steps" if result.stopped != "finished" else f"in {result.seconds:.0f} s"
    print(f"{result.stopped} {done}: {len(dataset.classes)} tokens in {arguments.out / 'tokens.safetensors'}")
    return _INTERRUPTED if result.stopped == "stopped" else 0


def _write_tokens(tokens: TokenSet, folder: Path) -> None:
    from .token_files import export_embeddings, save_tokens

    save_tokens(tokens, folder / "tokens.safetensors")
    export_embeddings(tokens, folder / "embeddings")


def _write_loss_curve(history: Any, folder: Path) -> None:
    from .atomic import write_atomically
    from .plots import loss_curves

    try:
        picture = loss_curves({"": history})
    except ImportError:  # matplotlib is optional
        return
    write_atomically(folder / "loss.png", lambda temporary: picture.save(temporary, "PNG"))


def _classify(arguments: argparse.Namespace) -> int:
    import torch

    from .classifiers import predict
    from .examples import load_image, to_square
    from .token_files import load_tokens

    tokens = load_tokens(arguments.tokens)
    paths = _images(arguments.images)
    host = _host(arguments)
    classifier = _classifier(arguments.method, host, tokens, calibrated=arguments.unknown)
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


def _classifier(method: str, host: Host, tokens: TokenSet, *, calibrated: bool) -> Classifier:
    from .calibration import calibrate
    from .classifiers import CascadeClassifier, ClipClassifier, DiffusionClassifier, HybridClassifier

    if method == "auto":
        method = "diffusion" if host.clip is None else "clip"
    if method == "diffusion":
        if calibrated:
            raise ConfigError(
                "--unknown needs the examples' image features, which the diffusion classifier has not; give --threshold"
            )
        return DiffusionClassifier(host, tokens)
    first: ClipClassifier | HybridClassifier = (
        HybridClassifier(host, tokens) if method == "hybrid" else ClipClassifier(host, tokens)
    )
    if tokens.support is not None:
        calibrate(first, tokens)
    elif calibrated:
        raise ConfigError("these tokens carry no features of their examples to find a threshold with; give --threshold")
    return CascadeClassifier(first, DiffusionClassifier(host, tokens)) if method == "cascade" else first  # type: ignore[arg-type]


def _evaluate(arguments: argparse.Namespace) -> int:
    from .atomic import write_atomically
    from .examples import FewShotDataset
    from .experiments import DEFAULT_VARIANTS, STUDY, Row, as_json, evaluate, markdown_table
    from .features import FeatureCache

    dataset = FewShotDataset.from_folder(arguments.folder)
    host, config = _host(arguments), _config(arguments)
    with _bar("features", "image") as progress:
        cache = FeatureCache.build(host, dataset, mirror=_mirror(arguments), folder=arguments.cache, progress=progress)
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


def _generate(arguments: argparse.Namespace) -> int:
    import numpy as np
    from PIL import Image

    from .sampling import generate
    from .token_files import load_tokens

    tokens = load_tokens(arguments.tokens)
    fillings = tokens.names if "{}" in arguments.prompt else ("",)
    prompts = [arguments.prompt.replace("{}", f"embedding:{name}") for name in fillings for _ in range(arguments.count)]
    stems = [f"{name or 'image'}-{number:02d}" for name in fillings for number in range(arguments.count)]
    with _bar("generating", "image") as progress:
        images = generate(
            _host(arguments), prompts, tokens, negative=arguments.negative, steps=arguments.steps, guidance=arguments.guidance,
            seed=arguments.seed, progress=progress,
        )  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    for stem, image in zip(stems, images, strict=True):
        Image.fromarray((image.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)).save(
            arguments.out / f"{stem}.png"
        )
    print(f"{len(images)} images in {arguments.out}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from .demo.run import run_demo

    _quiet_libraries()

    bars: dict[str, Any] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = _new_bar(stage, "step", total)
        bars[stage].update(done - bars[stage].n)
        if done >= total:
            bars[stage].close()

    demo = run_demo(arguments.out, shots=arguments.shots, seed=arguments.seed, progress=progress)
    print(f"chance {100 / len(demo.classes):.1f}%")
    for name, share in demo.accuracy.items():
        print(f"{name} {100 * share:.1f}%")
    print(f"report: {arguments.out / 'report.html'}")
    return 0


def _host(arguments: argparse.Namespace) -> Host:
    import torch

    _quiet_libraries()

    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"the device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    if arguments.model is None:
        from .pocket import load_pocket

        return load_pocket(device=device, dtype=arguments.dtype)
    from .hosts.diffusers import load_host

    return load_host(arguments.model, arguments.clip, device=device, dtype=arguments.dtype, config=arguments.config)


def _config(arguments: argparse.Namespace) -> TrainConfig:
    from .pocket import POCKET_CONFIG
    from .templates import OBJECT_TEMPLATES, STYLE_TEMPLATES
    from .training import TrainConfig

    names = ("steps", "batch", "lr", "gamma", "gamma_end", "warm_start", "seed", "direction", "pooling")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.templates is not None:
        given["templates"] = STYLE_TEMPLATES if arguments.templates == "style" else OBJECT_TEMPLATES
    if arguments.template:
        given["templates"] = tuple(arguments.template)
    if given.get("gamma") == 0:
        given.setdefault("warm_start", 0)
    return replace(POCKET_CONFIG if arguments.model is None else TrainConfig(), **given)


def _mirror(arguments: argparse.Namespace) -> bool:
    """Mirrored writing is other writing: the pocket checkpoint's default is not to mirror."""
    return arguments.model is not None if arguments.mirror is None else bool(arguments.mirror)


def _images(paths: Sequence[Path]) -> list[Path]:
    from .examples import find_images

    for path in paths:
        if not path.exists():
            raise ConfigError(f"no image or folder {path}")
    found = [image for path in paths for image in find_images(path)]
    if not found:
        raise ConfigError(f"no images in {', '.join(map(str, paths))}")
    return found


@contextmanager
def _bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with the time left; the callback takes what is done and what there is."""
    bar: Any = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = _new_bar(description, unit, total)
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()


def _new_bar(description: str, unit: str, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=description, unit=unit, file=sys.stderr, dynamic_ncols=True)


def _quiet_libraries() -> None:
    """Model libraries announce what they load; a person at the command line did not ask."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
