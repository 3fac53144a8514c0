"""Which names tokens may have, how names are made of labels, and how both are compared."""

import os
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcti_core.errors import TokenError
from mcti_core.tokens.io import load_tokens, save_tokens
from mcti_core.tokens.names import (
    MAX_NAME_BYTES,
    check_name,
    find_class,
    index_of,
    label_of_folder,
    normal_form,
    safe_names,
)
from mcti_core.tokens.ops import class_index, rename, select
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


FORMS = ("NFC", "NFD")


@given(st.text(max_size=20))
def test_normal_form_of_any_composition_and_case_is_the_same(text):
    for form in FORMS:
        assert normal_form(unicodedata.normalize(form, text)) == normal_form(text)
    assert normal_form(normal_form(text)) == normal_form(text)


def set_of(*labels: str) -> TokenSet:
    return TokenSet(labels, {"clip_l": torch.arange(float(len(labels))).view(-1, 1, 1)})


@pytest.mark.parametrize("label", ["naïve (Ärger)", "crème", "Å", "한국어", "がぎ", "ệ 1"])
@pytest.mark.parametrize("stored", FORMS)
@pytest.mark.parametrize("asked", FORMS)
def test_select_and_rename_take_any_composition(label, stored, asked):
    tokens = set_of("other", unicodedata.normalize(stored, label))
    wanted = unicodedata.normalize(asked, label)
    assert class_index(tokens, wanted) == 1
    assert select(tokens, [wanted]).vectors["clip_l"].item() == 1
    assert rename(tokens, {wanted: "new"}).labels == ("other", "new")


def test_find_class_prefers_what_is_exactly_written():
    assert find_class("Cat", ("cat", "Cat"), ("cat", "Cat-2")) == 1
    assert find_class("my_cat", ("dog", "my cat"), ("dog", "my-cat")) == 1
    assert find_class("bird", ("dog", "my cat"), ("dog", "my-cat")) is None
    assert find_class(" ", ("dog",), ("dog",)) is None
    assert index_of("x", ()) is None


def test_labels_without_letters_have_names_of_their_own():
    labels = ["🦊", "🦝", "♥", "☂️", "?!", "★"]
    alone = [safe_names([label])[0] for label in labels]
    assert len({name.casefold() for name in alone}) == len(labels)
    assert tuple(alone) == safe_names(labels)
    assert alone[0] == "fox-face"


@given(st.text("猫犬鳥", min_size=33, max_size=60), st.text("猫犬鳥", min_size=33, max_size=60))
def test_long_labels_that_differ_have_names_that_differ(one, other):
    a, b = (safe_names([label])[0] for label in (one, other))
    assert (a == b) == (one == other)
    assert max(len(a.encode()), len(b.encode())) <= 104


def test_folder_names_that_are_not_utf8_become_labels_that_can_be_written(tmp_path):
    names = [os.fsdecode(raw) for raw in (b"caf\xe9", b"caf\xe8", "Łódź".encode("cp1250"), "猫".encode("gbk"))]
    labels = [label_of_folder(name) for name in names]
    assert labels[:2] == ["caf\\xe9", "caf\\xe8"]
    assert len(set(labels)) == 4
    assert all(label.encode() for label in labels)
    assert label_of_folder("plain 猫") == "plain 猫"
