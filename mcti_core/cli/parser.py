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

__all__ = ["main"]

SHARED = (run_train, run_evaluate, run_benchmark, run_classify)
"""Commands that several processes do together."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for a mistake that one can mend, 130 after Ctrl-C."""
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
        print(f"{_who()}: {escaped(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mcti: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left
        sys.stderr.close()
        return 0
    except UnicodeEncodeError as error:  # a label or a path in letters that this locale's file names lack
        if error.encoding != sys.getfilesystemencoding():
            raise
        print(
            f"mcti: {escaped(repr(error.object)[:200])} cannot be the name of a file in this locale, whose encoding is {error.encoding}; "
            "set PYTHONUTF8=1 in the environment",
            file=sys.stderr,
        )
        return 1
    except OSError as error:  # a folder that cannot be written to, a full disk
        told = (
            f"{error.filename} cannot be used ({error.strerror})" if error.filename and error.strerror else str(error)
        )
        print(f"mcti: {escaped(told)}", file=sys.stderr)
        return 1


def _who() -> str:
    """Message prefix: 'mcti', or 'mcti (process N)' for ranks other than 0."""
    with suppress(ConfigError):
        if started() > 1 and int(rank := os.environ["RANK"]):
            return f"mcti (process {rank})"
    return "mcti"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))  # a file's name may stand where an option is expected


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds defaults to the help texts, except None, False and empty lists."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.default or (action.default == 0 and action.default is not False)
        return super()._get_help_string(action) if shown else action.help


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mcti", description="Teach a text-to-image model many unnamed things; generate and classify them."
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, purpose, add_options, run in (
        ("train", "learn a token for each class folder", _add_train, run_train),
        ("classify", "tell what images show", _add_classify, run_classify),
        (
            "evaluate",
            "measure the accuracy of a token set, or of trainings; find label errors",
            _add_evaluate,
            run_evaluate,
        ),
        ("benchmark", "compare methods on many data sets, in one table", _add_benchmark, run_benchmark),
        ("generate", "draw with learned tokens", _add_generate, run_generate),
        ("add", "teach a trained set more classes; its own stay as they are", _add_add, run_add),
        ("convert", "turn embeddings into a token set or back; merge, pick, rename", add_converting, run_convert),
        ("undo", "put images back that classify has sorted into folders", add_undoing, run_undo),
        ("demo", "the whole method on handwritten digits", _add_demo, run_demo),
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
    option(
        "--out",
        type=folder_path,
        required=True,
        help="where tokens.safetensors, embeddings/, loss.png, README.md and run.toml go",
    )
    add_overwriting(command)
    option(
        "--config", type=path, help="a TOML file of options, such as the run.toml of another run; those given here win"
    )
    _add_model(command)
    add_training(command)
    start = "a token set file to train further: its classes start from its vectors; templates and pooling are its own"
    option("--start-from", type=path, help=start)
    table = "a CSV file with the columns image and label, as a review page gives it: labels to correct, images to add or leave out"
    option("--corrections", type=path, help=table)
    option("--shots", type=count, help="train on this many random images of each class instead of all")
    add_reading(command)
    add_validation(command)
    _add_cache(command)
    group = command.add_argument_group("resuming an interrupted training")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="resume an interrupted training from --out")
    either.add_argument("--restart", action="store_true", help="start over, discarding the training in --out")
    seconds = number(least=0)
    group.add_argument("--keep-every", type=seconds, default=10.0, help="seconds between saves; 0 saves every step")


def _add_classify(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("images", type=path, nargs="+", help="images, or folders of images")
    option("--recursive", action="store_true", help="images in the folders' folders, too")
    option("--tokens", type=path, required=True, help="a token set file")
    option("--method", choices=METHODS, default="auto", help=METHOD_HELP)
    option("--top", type=count, default=1, help="how many classes to name")
    either = command.add_mutually_exclusive_group()
    either.add_argument(
        "--unknown",
        action="store_true",
        help="answer '(unknown)' below a confidence that 95%% of new images of the classes should reach",
    )
    either.add_argument("--threshold", type=confidence, help="answer '(unknown)' below this confidence")
    option("--json", action="store_true", help="print one JSON object per line")
    option("--batch", type=count, default=32, help="images per pass of the models")
    readers = "threads that read images ahead; if not given, one for each core, 8 at most"
    option("--readers", type=whole(1, 256), help=readers)
    group = command.add_argument_group("very many images")
    written = "write one JSON object per line here, as they come, instead of printing; with .csv also a table beside it"
    group.add_argument("--out", type=file_path("answers.jsonl"), help=written)
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="resume an interrupted run from --out")
    either.add_argument("--restart", action="store_true", help="start over, discarding the answers in --out")
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
    option("--tokens", type=path, required=True, help="a token set file")
    option("--prompt", required=True, help="'{}' draws every class; '{name}' or 'embedding:name' is one of them")
    option("--negative", default="", help="what to stay away from")
    option("--out", type=folder_path, default=Path("generated"), help="folder for the images")
    option("--count", type=count, default=4, help="images of each prompt")
    option("--steps", type=count, default=25, help="denoising steps per image")
    option("--guidance", type=number(), default=5.0, help="guidance scale; 1 is no guidance")
    option("--seed", type=seed, default=0, help="seed of the initial noise")
    add_overwriting(command)
    _add_model(command)


def _add_add(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    folder = "holds one folder of images for each new class; the set's own may be there too"
    option("folder", type=path, help=folder)
    option("--to", type=path, required=True, help="the token set file")
    option("--out", type=folder_path, required=True, help="where the larger tokens.safetensors and embeddings/ go")
    option("--replace", action="store_true", help="learn those classes of the folder again that the set has already")
    add_overwriting(command)
    _add_model(command)
    add_steps(command)
    add_reading(command)
    _add_cache(command)
    # how the tokens are read is the set's own
    command.set_defaults(direction=None, pooling=None, templates=None, template=None)


def _add_demo(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    results = "where report.html, metrics.json and tokens.safetensors go"
    option("--out", type=folder_path, required=True, help=results)
    add_overwriting(command)
    option("--seed", type=seed, default=0, help="seed of the choice of examples and of the training")
    option("--shots", type=count, default=5, help="examples per digit")


def _add_cache(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cache", type=folder_path, help="keep image features here for the next run")


def _add_model(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("model").add_argument
    model = "a diffusers folder or single-file checkpoint; the pocket checkpoint if not given"
    option("--model", type=path, help=model)
    option("--clip", type=path, help="a folder with the CLIP model that the checkpoint's text encoder comes from")
    option("--model-config", type=path, help="for a single file without network: a diffusers folder of its family")
    option("--device", default="auto", help="auto (cuda, xpu or mps where there is one, else cpu), cpu, cuda, ...")
    option(
        "--dtype",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="of the weights; auto is bf16 on a GPU that has it, fp16 on others, fp32 elsewhere and for the pocket checkpoint",
    )
