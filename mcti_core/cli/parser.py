"""The command line: ``mcti train | add | classify | evaluate | generate | convert | demo``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..classifiers.methods import METHODS
from ..distributed import shut_down, started
from ..errors import ConfigError, MCTIError
from ..escaping import escaped
from ..files.limits import MAX_STEPS
from . import argument_types
from .add import run_add
from .classify import run_classify
from .console import set_up_streams
from .convert_arguments import add_converting
from .demo import run_demo
from .evaluate import run_evaluate
from .generate import run_generate
from .option_checks import check_options
from .train import INTERRUPTED, run_train

__all__ = ["main"]

SHARED = (run_train, run_evaluate, run_classify)
"""Commands that several processes do together."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for a mistake that one can mend, 130 after Ctrl-C."""
    set_up_streams()
    arguments = _parser().parse_args(argv)
    try:
        if started() > 1 and arguments.run not in SHARED:
            raise ConfigError(
                "only train, classify and evaluate can share their work among processes; start it without a launcher"
            )
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
        print(f"mcti: {escaped(str(error))}", file=sys.stderr)
        return 1


def _who() -> str:
    """Message prefix: 'mcti', or 'mcti (process N)' for ranks other than 0."""
    rank = os.environ.get("RANK", "0") if started() > 1 else "0"
    return "mcti" if rank == "0" else f"mcti (process {rank})"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))  # a file's name may stand where an option is expected


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mcti", description="Teach a text-to-image model many unnamed things; generate and classify them."
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = subcommands.add_parser(
        "train", help="learn a token for each class folder", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    train.add_argument("folder", type=argument_types.path, help="holds one folder of images a class")
    train.add_argument(
        "--out",
        type=argument_types.folder_path,
        required=True,
        help="where tokens.safetensors, embeddings/ and loss.png go",
    )
    argument_types.add_overwriting(train)
    _add_model(train)
    _add_training(train)
    train.add_argument(
        "--shots", type=argument_types.count, help="train on this many random images of each class instead of all"
    )
    train.add_argument("--cache", type=argument_types.folder_path, help="keep image features here for the next run")
    _add_resuming(train)
    train.set_defaults(run=run_train)

    classify = subcommands.add_parser(
        "classify", help="tell what images show", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    classify.add_argument("images", type=argument_types.path, nargs="+", help="images, or folders of images")
    classify.add_argument("--recursive", action="store_true", help="images in the folders' folders, too")
    classify.add_argument("--tokens", type=argument_types.path, required=True, help="a token set file")
    classify.add_argument(
        "--method", choices=METHODS, default="auto", help="auto is clip where there is a CLIP space, else diffusion"
    )
    classify.add_argument("--top", type=argument_types.count, default=1, help="how many classes to name")
    either = classify.add_mutually_exclusive_group()
    either.add_argument(
        "--unknown",
        action="store_true",
        help="answer '(unknown)' below a confidence that 95%% of new images of the classes should reach",
    )
    either.add_argument("--threshold", type=argument_types.confidence, help="answer '(unknown)' below this confidence")
    classify.add_argument("--json", action="store_true", help="one JSON object a line")
    classify.add_argument("--batch", type=argument_types.count, default=32)
    classify.add_argument(
        "--readers",
        type=argument_types.whole(1, 256),
        help="threads that read images ahead; if not given, one for each core, 8 at most",
    )
    _add_answers(classify)
    _add_model(classify)
    classify.set_defaults(run=run_classify)

    evaluate = subcommands.add_parser(
        "evaluate", help="measure accuracy over shots and seeds", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    evaluate.add_argument("folder", type=argument_types.path, help="holds one folder of images a class")
    evaluate.add_argument(
        "--shots",
        type=argument_types.count,
        nargs="+",
        help="if not given, those of 1, 2, 4 and 8 that leave an image to test on",
    )
    evaluate.add_argument("--seeds", type=argument_types.count, default=3, help="how many random splits")
    evaluate.add_argument("--first-seed", type=argument_types.seed, default=0)
    evaluate.add_argument(
        "--study", action="store_true", help="compare settings too: gamma, direction, pooling, templates, one by one"
    )
    evaluate.add_argument(
        "--json", type=argument_types.file_path("accuracies.json"), help="write all measurements here, as they come"
    )
    argument_types.add_overwriting(evaluate)
    evaluate.add_argument("--cache", type=argument_types.folder_path, help="keep image features here for the next run")
    _add_model(evaluate)
    _add_training(evaluate)
    evaluate.set_defaults(run=run_evaluate)

    generate = subcommands.add_parser(
        "generate", help="draw with learned tokens", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    generate.add_argument("--tokens", type=argument_types.path, required=True, help="a token set file")
    generate.add_argument(
        "--prompt", required=True, help="'{}' draws every class; '{name}' or 'embedding:name' is one of them"
    )
    generate.add_argument("--negative", default="", help="what to stay away from")
    generate.add_argument(
        "--out", type=argument_types.folder_path, default=Path("generated"), help="folder for the images"
    )
    generate.add_argument("--count", type=argument_types.count, default=4, help="images of each prompt")
    generate.add_argument("--steps", type=argument_types.count, default=25)
    generate.add_argument("--guidance", type=argument_types.number(), default=5.0)
    generate.add_argument("--seed", type=argument_types.seed, default=0)
    argument_types.add_overwriting(generate)
    _add_model(generate)
    generate.set_defaults(run=run_generate)

    _add_adding(subcommands)
    add_converting(subcommands)

    demo = subcommands.add_parser(
        "demo", help="the whole method on handwritten digits", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    demo.add_argument(
        "--out",
        type=argument_types.folder_path,
        required=True,
        help="where report.html, metrics.json and tokens.safetensors go",
    )
    argument_types.add_overwriting(demo)
    demo.add_argument("--seed", type=argument_types.seed, default=0)
    demo.add_argument("--shots", type=argument_types.count, default=5)
    demo.set_defaults(run=run_demo)
    return parser


def _add_resuming(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("resuming an interrupted training")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--resume", nargs="?", const="same", choices=("same", "anyway"),
        help="resume an interrupted training from --out; with 'anyway', a different training may start from its vectors",
    )  # fmt: skip
    either.add_argument("--restart", action="store_true", help="start over, discarding the training in --out")
    group.add_argument(
        "--keep-every",
        type=argument_types.number(least=0),
        default=10.0,
        help="seconds between saves; 0 saves every step",
    )


def _add_answers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("very many images")
    group.add_argument(
        "--out",
        type=argument_types.file_path("answers.jsonl"),
        help="write one JSON object a line here, as they come, instead of printing",
    )
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="resume an interrupted run from --out")
    either.add_argument("--restart", action="store_true", help="start over, discarding the answers in --out")


def _add_adding(subcommands: Any) -> None:
    add = subcommands.add_parser(
        "add", help="teach a trained set more classes; its own stay as they are", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )  # fmt: skip
    add.add_argument(
        "folder",
        type=argument_types.path,
        help="holds one folder of images for each new class; the set's own may be there too",
    )
    add.add_argument("--to", type=argument_types.path, required=True, help="the token set file")
    add.add_argument(
        "--out",
        type=argument_types.folder_path,
        required=True,
        help="where the larger tokens.safetensors and embeddings/ go",
    )
    argument_types.add_overwriting(add)
    _add_model(add)
    _add_steps(add)
    add.add_argument("--cache", type=argument_types.folder_path, help="keep image features here for the next run")
    # how the tokens are read is the set's own
    add.set_defaults(run=run_add, direction=None, pooling=None, templates=None, template=None)


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        type=argument_types.path,
        help="a diffusers folder or single-file checkpoint; the pocket checkpoint if not given",
    )
    group.add_argument(
        "--clip",
        type=argument_types.path,
        help="a folder with the CLIP model that the checkpoint's text encoder comes from",
    )
    group.add_argument(
        "--config", type=argument_types.path, help="for a single file without network: a diffusers folder of its family"
    )
    group.add_argument(
        "--device", default="auto", help="auto (cuda, xpu or mps where there is one, else cpu), cpu, cuda, ..."
    )
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="of the weights; auto is bf16 on a GPU that has it, fp16 on others, fp32 elsewhere and for the pocket checkpoint",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = _add_steps(parser)
    group.add_argument("--direction", choices=("text_to_image", "image_to_text", "symmetric"))
    group.add_argument("--pooling", choices=("eot", "token"))
    either = group.add_mutually_exclusive_group()
    either.add_argument("--templates", choices=("object", "style"))
    either.add_argument("--template", action="append", help="a prompt of your own with {} in it; may be repeated")
    group.add_argument("--vectors", type=argument_types.count, default=1, help="vectors a token")


def _add_steps(parser: argparse.ArgumentParser) -> Any:
    group = parser.add_argument_group("training", "what is not given is the model's own default")
    for name, kind in (
        ("steps", argument_types.whole(1, MAX_STEPS)),
        ("batch", argument_types.count),
        ("micro-batch", argument_types.whole(0)),
        ("lr", argument_types.number(0)),
        ("gamma-end", argument_types.number(0)),
        ("warm-start", argument_types.whole(0, MAX_STEPS)),
        ("seed", argument_types.seed),
    ):
        group.add_argument(f"--{name}", type=kind)
    group.add_argument(
        "--gamma",
        type=argument_types.gamma,
        help="weight of the classification term: a number, or 'auto' to follow the gradients",
    )
    group.add_argument(
        "--gradient-ratio",
        type=argument_types.number(0),
        help="with --gamma auto: how hard that term pulls beside the other",
    )
    group.add_argument(
        "--gradient-checkpointing", action="store_true", default=None,
        help="less memory for more time; a single process turns it on by itself where it must",
    )  # fmt: skip
    group.add_argument(
        "--keep-norm", action="store_true", default=None, help="keep token vectors as long as the vocabulary's"
    )
    group.add_argument("--init", help="first vector: a word, 'mean' or 'random'")
    group.add_argument("--mirror", action=argparse.BooleanOptionalAction, help="train on mirror images too")
    return group
