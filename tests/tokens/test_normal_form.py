import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcti_core.tokens.names import find_class, safe_names
from mcti_core.tokens.normal_form import index_of, label_of_folder, normal_form
from mcti_core.tokens.ops import class_index, rename, select
from mcti_core.tokens.token_set import TokenSet

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
    import os

    names = [os.fsdecode(raw) for raw in (b"caf\xe9", b"caf\xe8", "Łódź".encode("cp1250"), "猫".encode("gbk"))]
    labels = [label_of_folder(name) for name in names]
    assert labels[:2] == ["caf\\xe9", "caf\\xe8"]
    assert len(set(labels)) == 4
    assert all(label.encode() for label in labels)
    assert label_of_folder("plain 猫") == "plain 猫"
