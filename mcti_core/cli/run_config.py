"""Read options from a TOML file (``mcti train --config``), and write the options of a run."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..escaping import has_surrogates
from ..files.limits import MAX_TEMPLATES
from ..files.provenance import TEXT_MARK, write_text
from ..files.regular import read_limited
from ..training.config import TrainConfig
from .console import say
from .options import hflip_of

__all__ = ["RUN_CONFIG", "with_config", "write_run_config"]

RUN_CONFIG = "run.toml"
_MAX_BYTES = 2**20
_MAX_NUMBER = 10**30
_LONG_KEY = re.compile(r"""(?<![^\s\[{,])(?:(?:[\w-]+|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\n]*')[ \t]*\.[ \t]*){16}""")
"""A key of more than 16 parts, as in ``a.b.c``. The TOML reader takes memory and time with the square of their number."""
_OMITTED_OPTIONS = ("command", "config", "resume", "restart", "overwrite", "templates")
"""Options of a single call, and ``templates``, which is replaced by the templates themselves."""


def with_config(command: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Prepend the options of the ``--config`` file to a command line. Options on the command line take precedence.

    Args:
        command: the parser; modified.
        words: arguments after the command's name.

    Raises:
        ConfigError: the file cannot be read, or contains an unknown option or an invalid value.
    """
    actions = {action.dest: action for action in command._actions}
    for action in actions.values():
        action.required, action.default = False, None
        action.nargs = action.nargs if action.option_strings else "?"
    given = vars(command.parse_args(words))
    typed, path = {name for name, value in given.items() if value is not None}, given["config"]
    for group in command._mutually_exclusive_groups:
        either = {action.dest for action in group._group_actions}
        typed |= either if either & typed else set()
    found = {} if path is None else {key.replace("-", "_"): value for key, value in _read(path).items()}
    if unknown := found.keys() - (actions.keys() - {"config", "help"}):
        raise ConfigError(f"{path} sets {min(unknown)!r}, which is no option of {command.prog}; correct or remove it")
    written = [
        word for name, value in found.items() if name not in typed for word in _words(path, actions[name], value)
    ]
    return [*written, *words]


def _words(path: Path, action: argparse.Action, value: Any) -> list[str]:
    """Command-line arguments that set an option."""
    option = next((name for name in action.option_strings if name.startswith("--")), "")
    values = value if isinstance(value, list) and isinstance(action, argparse._AppendAction) else [value]
    wrong = ""
    if any(isinstance(each, int) and abs(each) >= _MAX_NUMBER for each in values):  # which Python refuses to print
        wrong = "a number of more than 30 digits; correct or remove it"
    elif not {type(each) for each in values} <= ({bool} if action.nargs == 0 else {str, int, float}):
        kind = "true or false" if action.nargs == 0 else "a text or a number"
        shown = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(str(value)[:80])
        wrong = f"{shown}; it must be {kind}"
    elif len(values) > MAX_TEMPLATES:
        wrong = f"{len(values):,} values; give at most {MAX_TEMPLATES:,}"
    if wrong:
        raise ConfigError(f"{path} sets {action.dest!r} to {wrong}")
    if action.nargs == 0:
        return [option] if value else [name for name in action.option_strings if name.startswith("--no-")]
    if not option:  # a path that begins with a dash
        return [f"./{value}" if str(value).startswith("-") else str(value)]
    return [f"{option}={each}" for each in values]


def _read(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # before Python 3.11
        try:
            import tomli as tomllib  # type: ignore[no-redef]
        except ModuleNotFoundError as error:
            raise ConfigError("--config needs Python 3.11 or the package tomli; install one of them") from error
    try:
        text = read_limited(path, _MAX_BYTES).decode()
        if _LONG_KEY.search(text):
            raise ValueError("a key has more than 16 parts")
        return tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read as a TOML file of options ({error}); a model's settings are for --model-config"
        ) from error


def write_run_config(arguments: argparse.Namespace, config: TrainConfig, path: Path) -> None:
    """Write a run's options as TOML, including defaults of the training.

    Raises:
        FileError: a foreign file is there, or the file cannot be written.
    """
    settings = {name: value for name, value in config.describe().items() if hasattr(arguments, name)}
    values = {**vars(arguments), **settings, "hflip": hflip_of(arguments), "template": list(config.templates)}
    lines = [f"{TEXT_MARK}; repeat with: mcti train --config {path.name} --output-dir NEW-FOLDER"]
    for name, value in values.items():
        value = ",".join(value) if isinstance(value, tuple) else value
        if value not in (None, "") and name not in _OMITTED_OPTIONS:
            lines.append(f"{name.replace('_', '-')} = {_toml(value)}")
    if has_surrogates(text := "\n".join(lines) + "\n"):
        say(f"no {path.name}: the path of an option is not UTF-8, which TOML cannot express")
    else:
        write_text(text, path)


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    plain = value if isinstance(value, bool | int | float) else str(value)
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
