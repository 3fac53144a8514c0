"""Random values of one command-line option at a time: accepted with their meaning, or refused with the option's name."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from random import Random
from typing import Any

from mcti_core.cli.option_checks import check_options
from mcti_core.cli.parser import _parser
from mcti_core.tokens.io import save_tokens

from .mutations import NUMBERS, TEXTS
from .seeds import token_set

__all__ = ["any_option"]

_COMMANDS = {
    "train": ["no-folder", "--output-dir", "new"],
    "add": ["no-folder", "--tokens", "{set}", "--output-dir", "new"],
    "classify": ["no-folder", "--tokens", "{set}"],
    "evaluate": ["no-folder"],
    "benchmark": ["--output-dir", "new"],
    "generate": ["--tokens", "{set}", "--prompt", "x"],
    "demo": ["--output-dir", "new"],
    "convert": ["{set}", "--format", "set", "--output", "new"],
}
_FILES = {("classify", "--output"), ("classify", "--review"), ("evaluate", "--output-json"), ("evaluate", "--review")}
"""Options that name a file to write; the other ones that write name folders."""


def any_option(random: Random, given: Path) -> str | None:
    """Parse and check a command line.

    Returns:
        What is wrong with what came of it, or None.
    """
    known = save_tokens(token_set(), given / "set")
    command = random.choice(list(_COMMANDS))
    parser = _parser()
    (subcommands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    options = [each for each in subcommands.choices[command]._actions if each.option_strings and each.type is not None]
    option = random.choice(options)
    name = option.option_strings[0]
    text = random.choice((_number, _number, _path))(random, known)
    line = [command, *(part.replace("{set}", str(known)) for part in _COMMANDS[command]), f"{name}={text}"]
    arguments = parser.parse_args(line)
    check_options(arguments)
    return _wrong(command, name, getattr(arguments, option.dest))


def _wrong(command: str, name: str, value: Any) -> str | None:
    if isinstance(value, list):
        return next(filter(None, (_wrong(command, name, each) for each in value)), None)
    if isinstance(value, bool) or value is None:
        return f"{name} became {value}"
    if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and not 0 <= value < 2**64):
        return f"{name} became {value}"
    if isinstance(value, Path) and name in ("--output", "--output-dir", "--output-json", "--cache"):
        is_file = (command, name) in _FILES
        if value.is_dir() if is_file else value.is_file():
            return f"{name} became {value}, which is of the other kind"
    return None


def _number(random: Random, known: Path) -> str:
    value = random.choice((*NUMBERS, -random.random(), random.random(), 1e308, 1e-320, 10**400, 50.0, -0.0))
    written = random.choice((str, "{:e}".format, "{:f}".format)) if abs(value) < 1e300 else str
    special = (
        "nan",
        "NaN",
        "-nan",
        "inf",
        "-Infinity",
        "1e999",
        "0x10",
        "1_000",
        "٣",
        "½",
        "1,5",
        "50%",
        "auto",
        " 1 ",
        "",
        "1" * 5000,
    )
    return random.choice((written(value), written(value), *random.sample(special, 3)))


def _path(random: Random, known: Path) -> str:
    pieces = (
        str(known), str(known.parent), f"{known.parent}/", f"{known}/x", f"{known.parent}/new", f"{known.parent}/new/",
        f"{known.parent}/new.png", "~", "~/new", "~nobody-at-all/x", "", " ", ".", "..", "/", "a\0b", "x" * 5000, random.choice(TEXTS),
    )  # fmt: skip
    return random.choice(pieces)
