"""The help of the command line."""

import argparse
import re

import pytest

from mcti_core.cli.parser import _parser


def _commands():
    (subcommands,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    return subcommands.choices


@pytest.mark.parametrize("command", _commands())
def test_help_explains_every_option_and_shows_no_default_that_is_none(command):
    parser = _commands()[command]
    assert [action.dest for action in parser._actions if not action.help] == []
    shown = parser.format_help()
    assert re.findall(r"default:\s+(?:None|False|\(\)|\[\]|\{\}|\))", shown) == []


def test_help_shows_the_defaults_that_there_are():
    assert "images per batch (default: 32)" in " ".join(_commands()["classify"].format_help().split())
