from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcti_core.errors import TokenError
from mcti_core.tokens.names import safe_names
from mcti_core.tokens.ops import merge, rename, select
from mcti_core.tokens.token_set import Support, TokenSet


def made(labels, seed=0, support=True, **options):
    """A set of these classes, with two support features each."""
    generator = torch.Generator().manual_seed(seed)
    vectors = {"clip_l": torch.randn(len(labels), 2, 4, generator=generator)}
    features = Support(torch.randn(2 * len(labels), 3, generator=generator), torch.arange(len(labels)).repeat(2))
    return TokenSet(tuple(labels), vectors, support=features if support else None, **options)


def same(one, other):
    assert (one.labels, one.names) == (other.labels, other.names)
    assert torch.equal(one.vectors["clip_l"], other.vectors["clip_l"])
    for index in range(len(one)):
        ours, theirs = (tokens.support.features[tokens.support.labels == index] for tokens in (one, other))
        assert torch.equal(ours, theirs)


LABELS = st.lists(
    st.text(min_size=1, max_size=5), min_size=2, max_size=6, unique_by=lambda label: safe_names([label])[0].casefold()
)


@given(LABELS, st.data())
def test_parts_merge_to_the_whole(labels, data):
    whole = made(labels)
    order = data.draw(st.permutations(range(len(labels))))
    cut = data.draw(st.integers(1, len(labels) - 1))
    merged = merge(whole.select(order[:cut]), whole.select(order[cut:]))
    same(merged, whole.select(order))
    same(select(merged, whole.labels), whole)


@given(LABELS, st.data())
def test_merging_does_not_depend_on_how_it_is_grouped(labels, data):
    a, b, c = (made([f"{label}{letter}" for label in "xy"], seed) for seed, letter in enumerate("abc"))
    same(merge(merge(a, b), c), merge(a, merge(b, c)))
    same(merge(a), a)


@given(LABELS, st.data())
def test_renaming_there_and_back_is_the_identity(labels, data):
    before = made(labels)
    old = data.draw(st.sampled_from(labels))
    after = rename(before, {old: "something else"})
    assert after.labels[labels.index(old)] == "something else"
    assert after.names[labels.index(old)] == "something-else"
    same(rename(after, {"something else": old}), before)


def test_two_names_may_be_exchanged():
    swapped = rename(made("ab"), {"a": "b", "b": "a"})
    assert (swapped.labels, swapped.names) == (("b", "a"), ("b", "a"))
    assert torch.equal(swapped.vectors["clip_l"], made("ab").vectors["clip_l"])


def test_classes_are_picked_by_label_name_or_index():
    tokens = made(["my cat", "dog", "猫"])
    assert select(tokens, ["猫", "MY-CAT", 1]).labels == ("猫", "my cat", "dog")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: merge(), "no token sets"),
        (lambda: merge(made("ab"), made("ca")), "two classes are called 'a'; rename one"),
        (lambda: merge(made(["my cat"]), made(["My (cat)"])), "'my cat' and 'My .cat.' have the same token name 'My-cat'"),
        (lambda: merge(made("a"), made("b", pooling="token")), "different ways .pooling eot and token."),
        (lambda: merge(made("a"), made("b", templates=("{}",))), "different ways .templates"),
        (lambda: merge(made("a"), TokenSet(("b",), {"clip_l": torch.ones(1, 1, 4)})), "'a' has 2 vectors for clip_l, 4 wide, and 'b' has 1 vector"),
        (lambda: merge(made("a"), TokenSet(("b",), {"clip_h": torch.ones(1, 2, 4)})), "'b' has 2 vectors for clip_h"),
        (lambda: merge(made("a"), replace(made("b"), support=Support(torch.ones(1, 9), torch.zeros(1, dtype=torch.long)))), "different CLIP spaces"),
        (lambda: rename(made("ab"), {"a": "b"}), "two classes are called 'b'"),
        (lambda: rename(made("ab"), {"a": "B"}), "same token name"),
        (lambda: rename(made("ab"), {"c": "d"}), "no class 'c' here; there are: a, b"),
        (lambda: select(made("ab"), ["a", "A"]), "listed twice"),
        (lambda: select(made("ab"), []), "no class is given; there are: a, b"),
        (lambda: select(made("ab"), [2]), "no class 2"),
    ],
)  # fmt: skip
def test_refusals(act, message):
    with pytest.raises(TokenError, match=message):
        act()


def test_support_is_of_all_classes_or_none():
    assert merge(made("a"), made("b", support=False)).support is None
    assert sorted(merge(made("a"), made("bc")).support.labels.tolist()) == [0, 0, 1, 1, 2, 2]


def test_what_describes_the_sets_is_kept():
    one, other = made("a", base_model="x", training={"seed": 1}), made("b", base_model="y", training={"seed": 2})
    merged = merge(one, other)
    assert merged.base_model == "x + y"
    assert merged.training == {"merged": [{"seed": 1, "labels": ["a"]}, {"seed": 2, "labels": ["b"]}]}
    assert merge(one, replace(one, labels=("c",), names=("c",))).training == {"seed": 1}
    assert merge(made("a"), made("b")).training == {}
