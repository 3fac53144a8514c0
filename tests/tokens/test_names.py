"""Which token names a set may have."""

import pytest
import torch

from mcti_core.errors import TokenError
from mcti_core.tokens.io import load_tokens, save_tokens
from mcti_core.tokens.names import MAX_NAME_BYTES, check_name, safe_names
from mcti_core.tokens.token_set import TokenSet

LABELS = [
    "my cat", "猫", "!", "Ärger", "e\u0301", "नमस्ते", "ไทย", "שלום", "عربى", "Ελλάδα", "한국어", "\u0301x", "a_b", "a.b", "x²", "५",
    "con", "COM¹", "w" * 300, "猫" * 99, "my/cat", "..", "a\nb", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("label", LABELS)
def test_name_made_of_any_label_is_safe(label):
    for name in safe_names([label, label, label]):
        assert check_name(name) == name


@pytest.mark.parametrize("name", ["cat", "my-cat", "my_cat", "v1.5", "猫", "e\u0301", "नमस्ते", "x" * MAX_NAME_BYTES])
def test_names_of_letters_marks_digits_and_joints_are_kept(name):
    assert TokenSet(("a", "b"), {"clip_l": torch.ones(2, 1, 4)}, (name, "other")).names[0] == name


@pytest.mark.parametrize(
    "name",
    [
        "", "../../x", "..", "a/b", "a\\b", "/etc/x", "C:x", "C:\\x", "a\nb", "a\x1b[2J", "a\x07", "\x00", "a b", " a", "a ", ".a", "a.",
        "a..b", "CON", "nul.txt", "com1", "LPT³", "x" * 121, "猫" * 41, "\ud800", "a\u202eb", "a\u2028b", "a\u200bb", "a<b>", "a|b", "{x}",
        "a,b", "~", "%s", "$HOME", "*", "?", 'a"b',
    ],
)  # fmt: skip
def test_unsafe_name_is_refused_everywhere(name, tmp_path):
    with pytest.raises(TokenError, match="token name") as refused:
        TokenSet(("a", "b"), {"clip_l": torch.ones(2, 1, 4)}, (name, "other"))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_set_with_an_unsafe_name_in_its_file_is_refused(tmp_path):
    tokens = TokenSet(("a", "b"), {"clip_l": torch.ones(2, 1, 4)})
    object.__setattr__(tokens, "names", ("../../x", "b"))
    path = save_tokens(tokens, tmp_path / "set")
    with pytest.raises(TokenError, match="contains other characters"):
        load_tokens(path)


def test_name_that_is_no_text_is_refused():
    with pytest.raises(TokenError, match="is not a text"):
        check_name(3)


@pytest.mark.parametrize(
    "unseen",
    ["\u3164", "\u115f", "\u1160", "\uffa0", "\u2800", "\u034f", "\u17b4"],
)
def test_characters_that_show_nothing_are_in_no_name(unseen):
    with pytest.raises(TokenError):
        check_name(f"cat{unseen}")
    names = safe_names(["cat", f"cat{unseen}", unseen])
    assert names[:2] == ("cat", "cat-2")
    assert check_name(names[2]).isascii()


@pytest.mark.parametrize("selector", ["\ufe0f", "\ufe00", "\u180b", "\U000e0100"])
def test_names_are_made_without_variation_selectors_but_read_with_them(selector):
    assert safe_names([f"a{selector}b", "ab"]) == ("ab", "ab-2")
    assert check_name(f"a{selector}b") == f"a{selector}b"
