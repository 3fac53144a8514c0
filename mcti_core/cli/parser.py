"""The command line: ``mcti train | add | classify | evaluate | benchmark | generate | convert | undo | demo``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from ..classifiers.methods import METHODS
from ..distributed import shut_down, started
from ..errors import ConfigError, MCTIError
from ..escaping import escaped
from .add import run_add
from .argument_types import add_overwriting, confidence, count, file_path, folder_path, number, path, seed, whole
from .benchmark import run_benchmark
from .benchmark_arguments import add_benchmarking
from .classify import run_classify
from .console import check_progress_bars, set_up_streams
from .convert import run_convert
from .convert_arguments import add_converting
from .curation_arguments import add_curation, add_undoing
from .demo import run_demo
from .evaluate import run_evaluate
from .evaluate_arguments import METHOD_HELP, add_evaluation
from .generate import run_generate
from .option_checks import check_options
from .run_config import with_config
from .train import INTERRUPTED, run_train
from .train_arguments import add_reading, add_steps, add_training, add_validation
from .undo import run_undo

__all__ = ["SHARED", "main"]

SHARED = (run_train, run_evaluate, run_benchmark, run_classify)
"""Commands that can run as several processes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for an error, 130 after Ctrl-C."""
    set_up_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["train"] and any(word.startswith("--co") for word in words):
            words = [words[0], *with_config(_train_parser(), words[1:])]
        arguments = _parser().parse_args(words)
        if started() > 1 and arguments.run not in SHARED:
            raise ConfigError(
                "only train, classify, evaluate and benchmark can share their work among processes; start it without a launcher"
            )
        check_progress_bars()
        check_options(arguments)
        code: int = arguments.run(arguments)
        shut_down()
        return code
    except MCTIError as error:
        print(f"{_prefix()}: {escaped(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mcti: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has exited
        sys.stderr.close()
        return 0
    except UnicodeEncodeError as error:  # a label or path that the locale's encoding of file names lacks
        if error.encoding != sys.getfilesystemencoding():
            raise
        print(
            f"mcti: {escaped(repr(error.object)[:200])} cannot be the name of a file in this locale, whose encoding is {error.encoding}; "
            "set PYTHONUTF8=1 in the environment",
            file=sys.stderr,
        )
        return 1
    except OSError as error:  # such as missing permissions or a full disk
        named = error.filename and error.strerror
        reason = f"{error.filename} cannot be used ({error.strerror})" if named else str(error)
        print(f"mcti: {escaped(reason)}", file=sys.stderr)
        return 1


def _prefix() -> str:
    """Message prefix: 'mcti', or 'mcti (process N)' for ranks other than 0."""
    with suppress(ConfigError):
        if started() > 1 and int(rank := os.environ["RANK"]):
            return f"mcti (process {rank})"
    return "mcti"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))  # the message may contain a file's name


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds defaults to help texts, except None, False and empty lists."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.default or (action.default == 0 and action.default is not False)
        return super()._get_help_string(action) if shown else action.help


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mcti",
        description="Learn tokens for image classes with a text-to-image model; generate and classify them.",
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, purpose, add_options, run in (
        ("train", "learn a token for each class folder", _add_train, run_train),
        ("classify", "classify images, and sort, caption or review them", _add_classify, run_classify),
        ("evaluate", "measure a token set, or trainings; find label errors", _add_evaluate, run_evaluate),
        ("benchmark", "compare methods on many data sets", _add_benchmark, run_benchmark),
        ("generate", "generate images with learned tokens", _add_generate, run_generate),
        ("add", "add classes to a token set without changing the existing ones", _add_add, run_add),
        ("convert", "convert embeddings to a token set or back; merge, select, rename", add_converting, run_convert),
        ("undo", "revert the sorting of images by classify", add_undoing, run_undo),
        ("demo", "run the whole method on handwritten digits", _add_demo, run_demo),
    ):
        command = subcommands.add_parser(name, help=purpose, formatter_class=_HelpFormatter)
        add_options(command)
        command.set_defaults(run=run)
    return parser


def _train_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mcti train", formatter_class=_HelpFormatter)
    _add_train(parser)
    return parser


def _add_train(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("folder", type=path, help="contains one folder of images per class")
    written = "folder for tokens.safetensors, embeddings/, loss.png, README.md and run.toml"
    option("--output-dir", "-o", type=folder_path, required=True, help=written)
    add_overwriting(command)
    config = "a TOML file of options, such as the run.toml of another run; the command line takes precedence"
    option("--config", type=path, help=config)
    _add_model(command)
    add_training(command)
    start = "a token set to continue from, as a file or a folder of mcti train: its classes keep their vectors as the start; sets --template and --pooling"
    option("--start-from", type=path, help=start)
    table = "a CSV file with columns image and label, as a review page exports it: corrected labels, images to add or exclude"
    option("--corrections", type=path, help=table)
    option("--shots", type=count, help="train on this many random images of each class instead of all")
    add_reading(command)
    add_validation(command)
    _add_cache(command)
    group = command.add_argument_group("resuming an interrupted training")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="resume an interrupted training from --output-dir")
    either.add_argument("--restart", action="store_true", help="start over, discarding the training in --output-dir")
    seconds = number(least=0)
    group.add_argument("--save-every", type=seconds, default=10.0, help="seconds between saves; 0 saves every step")


def _add_classify(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("images", type=path, nargs="+", help="images, or folders of images")
    option("--recursive", action="store_true", help="include images in subfolders")
    option("--tokens", type=path, required=True, help="a token set: the file, or its folder")
    option("--method", choices=METHODS, default="auto", help=METHOD_HELP)
    option("--top", type=count, default=1, help="number of classes to report per image")
    either = command.add_mutually_exclusive_group()
    unknown = "answer '(unknown)' below a confidence that 95%% of new images of the classes should reach"
    either.add_argument("--reject-unknown", action="store_true", help=unknown)
    either.add_argument("--threshold", type=confidence, help="answer '(unknown)' below this confidence")
    option("--json", action="store_true", help="print one JSON object per line")
    option("--batch-size", type=count, default=32, help="images per batch")
    workers = "threads that read images; by default one per core, at most 8"
    option("--num-workers", type=whole(1, 256), help=workers)
    group = command.add_argument_group("very many images")
    written = "write one JSON object per line to this file instead of printing; .csv: also write a table"
    group.add_argument("--output", "-o", type=file_path("answers.jsonl"), help=written)
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="resume an interrupted run from --output")
    either.add_argument("--restart", action="store_true", help="start over, discarding the answers in --output")
    add_curation(command)
    _add_model(command)


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    add_evaluation(command)
    _add_cache(command)
    _add_model(command)
    add_training(command, gammas=True)


def _add_benchmark(command: argparse.ArgumentParser) -> None:
    add_benchmarking(command)
    _add_cache(command)
    _add_model(command)
    add_training(command)


def _add_generate(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("--tokens", type=path, required=True, help="a token set: the file, or its folder")
    option("--prompt", required=True, help="'{}' stands for every class; '{name}' or 'embedding:name' for one")
    option("--negative-prompt", default="", help="negative prompt")
    option("--output-dir", "-o", type=folder_path, default=Path("generated"), help="folder for the images")
    option("--num-images", type=count, default=4, help="images per prompt")
    option("--num-inference-steps", type=count, default=25, help="denoising steps per image")
    option("--guidance-scale", type=number(), default=5.0, help="guidance scale; 1 disables guidance")
    option("--seed", type=seed, default=0, help="seed of the initial noise")
    add_overwriting(command)
    _add_model(command)


def _add_add(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("folder", type=path, help="one folder of images per new class; existing classes are allowed too")
    option("--tokens", type=path, required=True, help="the token set: the file, or its folder")
    option(
        "--output-dir",
        "-o",
        type=folder_path,
        required=True,
        help="folder for the new tokens.safetensors and embeddings/",
    )
    option("--replace", action="store_true", help="retrain classes that the set already has")
    add_overwriting(command)
    _add_model(command)
    add_steps(command)
    add_reading(command)
    _add_cache(command)
    # these settings come from the set
    command.set_defaults(direction=None, pooling=None, templates=None, template=None)


def _add_demo(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option(
        "--output-dir",
        "-o",
        type=folder_path,
        required=True,
        help="folder for report.html, metrics.json and tokens.safetensors",
    )
    add_overwriting(command)
    option("--seed", type=seed, default=0, help="seed of the example selection and of the training")
    option("--shots", type=count, default=5, help="examples per digit")


def _add_cache(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cache", type=folder_path, help="folder that caches image features between runs")


def _add_model(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("model").add_argument
    model = "a diffusers folder or single-file checkpoint; by default the pocket checkpoint"
    option("--model", type=path, help=model)
    option("--clip", type=path, help="a folder with the CLIP model of the checkpoint's text encoder")
    option("--model-config", type=path, help="for a single-file checkpoint, offline: a diffusers folder of its family")
    option("--device", default="auto", help="auto (the first available of cuda, xpu, mps, cpu), cpu, cuda, ...")
    dtype = "number format of the weights; auto: bf16 or else fp16 on CUDA, fp32 on other devices and for the pocket checkpoint"
    option("--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help=dtype)
