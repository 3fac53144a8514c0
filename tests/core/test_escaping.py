"""Labels and file names from others in printed lines."""

import json
import sys
import unicodedata

import pytest

from mcti_core.cli.answer_formats import json_line
from mcti_core.escaping import escaped


@pytest.mark.parametrize(
    "text", ["my cat", "猫", "e\u0301", "नमस्ते", "a\\nb", "می\u200cخواهم", "👩\u200d👧", "x\u00a0y"]
)
def test_escaped_letters_of_all_scripts_stay(text):
    assert escaped(text) == text


def test_escaped_control_and_direction_characters_are_gone():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = escaped(every)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
    assert shown.splitlines() == [shown]


def test_json_line_is_one_line_without_control_characters_and_reads_back():
    every = "".join(map(chr, range(0x3000))) + "\udce9猫\U00016fe4"
    line = json_line({"label": every})
    assert escaped(line) == line
    assert json.loads(line) == {"label": every}
    assert "猫" in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nmcti: done", r"a\nmcti: done"), ("\x1b[2J", r"\x1b[2J"), ("\x07", r"\x07"), ("a\tb", r"a\tb"), ("\u202eb", r"\u202eb"), ("\udce9", r"\udce9")],
)  # fmt: skip
def test_escaped_gives_an_escape_that_can_be_read(text, shown):
    assert escaped(text) == shown


def test_letters_that_show_nothing_are_escaped():
    assert escaped("cat\u3164\u2800") == "cat\\u3164\\u2800"
    assert escaped("한글 क्‍ष 葛\U000e0100 ❤️") == "한글 क्‍ष 葛\U000e0100 ❤️"
