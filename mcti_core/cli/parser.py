"""The command line: ``mcti train | add | classify | evaluate | benchmark | generate | convert | undo | demo``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from ..distributed import shut_down, started
from ..errors import ConfigError, MCTIError
from ..escaping import escaped
from .arguments import COMMANDS
from .console import INTERRUPTED, check_progress_bars, set_up_streams
from .option_checks import check_options

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for an error, 130 after Ctrl-C."""
    set_up_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["train"] and any(word.startswith("--config") for word in words):
            from .run_config import with_config

            words = [words[0], *with_config(_train_parser(), words[1:])]
        arguments = _parser().parse_args(words)
        if started() > 1 and arguments.command not in ("train", "classify", "evaluate", "benchmark"):
            raise ConfigError(
                "only train, classify, evaluate and benchmark can share their work among processes; start it without a launcher"
            )
        check_progress_bars()
        check_options(arguments)
        module = import_module(f".{arguments.command}", __package__)  # of which most import PyTorch
        code: int = getattr(module, f"run_{arguments.command}")(arguments)
        shut_down()
        return code
    except MCTIError as error:
        message = str(error)
    except KeyboardInterrupt:
        print("mcti: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has exited
        sys.stderr.close()
        return 0
    except UnicodeEncodeError as error:  # a label or path that the locale's encoding of file names lacks
        if error.encoding != sys.getfilesystemencoding():
            raise
        message = (
            f"{error.object[:200]!r} cannot be the name of a file in this locale, whose encoding is {error.encoding}; "
            "set PYTHONUTF8=1 in the environment"
        )
    except OSError as error:  # such as missing permissions or a full disk
        named = error.filename and error.strerror
        message = f"{error.filename} cannot be used ({error.strerror})" if named else str(error)
    print(f"{_prefix()}: {escaped(message)}", file=sys.stderr)
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
    description = "Learn tokens for image classes with a text-to-image model; generate and classify them."
    parser = _Parser(prog="mcti", description=description)
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, (purpose, add_options) in COMMANDS.items():
        add_options(subcommands.add_parser(name, help=purpose, formatter_class=_HelpFormatter, allow_abbrev=False))
    return parser


def _train_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mcti train", formatter_class=_HelpFormatter, allow_abbrev=False)
    COMMANDS["train"][1](parser)
    return parser
