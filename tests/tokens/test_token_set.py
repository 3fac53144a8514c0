import unicodedata
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcti_core.errors import TokenError
from mcti_core.tokens.names import safe_names
from mcti_core.tokens.token_set import Support, TokenSet
from mcti_core.training.initial import new_tokens


@given(st.lists(st.text(), max_size=8))
def test_names_are_safe_unique_and_stay_as_they_are(labels):
    names = safe_names(labels)
    assert len(names) == len(labels)
    assert len({name.casefold() for name in names}) == len(names)
    assert safe_names(names) == names
    for name in names:
        assert all(unicodedata.category(letter)[0] in "LMN" or letter == "-" for letter in name)
        assert len(name.encode()) <= 104
        assert name.strip("-") == name != ""


@given(st.sampled_from(["cat", "CAT", "my cat", "猫", "x" * 200, "cat-2", "Straße", "STRASSE"]), st.integers(1, 5))
def test_equal_labels_are_numbered(label, count):
    names = safe_names([label] * count)
    assert len({name.casefold() for name in names}) == count
    assert names[0] == safe_names([label])[0]


def test_names_that_numbering_would_meet():
    assert safe_names(["a", "a", "a-2", "A"]) == ("a", "a-2", "a-2-2", "A-3")


class TestTokenSet:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"vectors": {"../clip_l": torch.zeros(3, 2, 32)}}, "named by letters, digits and _"),
            ({"vectors": {"support.features": torch.zeros(3, 2, 32)}}, "named by letters"),
            ({"labels": (), "names": (), "vectors": {"clip_l": torch.zeros(0, 1, 4)}}, "at least one class"),
            ({"names": ("a", "A", "b")}, "lower case"),
            ({"names": ("a",)}, "one token name per class"),
            ({"vectors": {}}, "at least one text encoder"),
            ({"pooling": "mean"}, "pooling"),
            ({"vectors": {"clip_l": torch.zeros(2, 1, 4)}}, "3 classes"),
            ({"vectors": {"clip_l": torch.zeros(3, 1, 4), "clip_g": torch.zeros(3, 2, 4)}}, "equal for all"),
            ({"vectors": {"clip_l": torch.zeros(3, 4)}}, "classes, vectors, width"),
            ({"vectors": {"clip_l": torch.full((3, 1, 4), torch.inf)}}, "finite"),
        ],
    )
    def test_refusals(self, tokens, changes, message):
        with pytest.raises(TokenError, match=message):
            replace(tokens, **changes)

    def test_select_permutes_everything(self, tokens):
        order = [2, 0]
        part = tokens.select(order)
        assert part.labels == ("c", "a")
        assert torch.equal(part.vectors["clip_l"], tokens.vectors["clip_l"][order])
        for new, old in enumerate(order):
            mine, theirs = part.support.labels == new, tokens.support.labels == old
            assert torch.equal(part.support.features[mine], tokens.support.features[theirs])
        assert len(part.support.labels) == 6

    def test_select_twice_is_select_of_select(self, tokens):
        twice, once = tokens.select([2, 0, 1]).select([1, 0]), tokens.select([0, 2])
        assert twice.labels == once.labels
        assert torch.equal(twice.support.features, once.support.features)
        assert torch.equal(twice.support.labels, once.support.labels)

    def test_with_vectors_is_a_detached_copy(self, tokens):
        given = torch.randn(3, 2, 32, requires_grad=True, dtype=torch.float64)
        new = tokens.with_vectors({"clip_l": given}).vectors["clip_l"]
        assert (new.dtype, new.requires_grad) == (torch.float32, False)
        with torch.no_grad():
            given.zero_()
        assert new.abs().sum() > 0

    def test_names_are_made_from_labels(self):
        made = TokenSet(
            ("my cat", "My cat"), {"clip_l": torch.zeros(2, 3, 4)}, support=Support(torch.zeros(0, 2), torch.zeros(0))
        )
        assert made.names == ("my-cat", "My-cat-2")
        assert (len(made), made.vectors_per_token) == (2, 3)


class TestNewTokens:
    @pytest.fixture
    def table(self, tiny_host):
        encoder = tiny_host.text["clip_l"]
        return encoder.embed(torch.arange(encoder.vocabulary_size))

    @staticmethod
    def made(host, init, classes=2, num_vectors=2, seed=0):
        labels = [f"class {number}" for number in range(classes)]
        return new_tokens(host, labels, num_vectors=num_vectors, initializer_token=init, seed=seed).vectors["clip_l"]

    @pytest.mark.parametrize(("word", "count"), [("cat", 1), ("cat", 3), ("dog bowl", 2)])
    def test_words_give_their_embeddings(self, tiny_host, table, word, count):
        rows = table[torch.tensor(tiny_host.text["clip_l"].tokenize(word))]
        vectors = self.made(tiny_host, word, 4, count)
        assert vectors.shape == (4, count, 32)
        assert all(torch.equal(row, rows.expand(count, -1)) for row in vectors)

    def test_mean_is_the_vocabularys(self, tiny_host, table):
        assert torch.allclose(self.made(tiny_host, "mean"), table.mean(0).expand(2, 2, -1))

    def test_random_has_the_tables_statistics(self, tiny_host, table):
        vectors = self.made(tiny_host, "random", 500, 20).view(-1, 32)
        assert torch.allclose(vectors.mean(0), table.mean(0), atol=0.1)
        assert torch.allclose(vectors.std(0), table.std(0), rtol=0.05)
        one, two = (self.made(tiny_host, "random", seed=seed) for seed in (1, 2))
        assert torch.equal(one, self.made(tiny_host, "random", seed=1))
        assert not torch.equal(one, two)

    @pytest.mark.parametrize("init", ["cat", "mean", "random"])
    def test_vectors_are_their_own(self, tiny_host, table, init):
        vectors = self.made(tiny_host, init)
        vectors[0, 0] = 0
        assert vectors[1, 0].abs().sum() > 0
        assert torch.equal(table, tiny_host.text["clip_l"].embed(torch.arange(len(table))))

    def test_refusals(self, tiny_host):
        with pytest.raises(TokenError, match="has 3 tokens; use one that has 1 or, for 2 vectors, 2"):
            self.made(tiny_host, "cat dog bowl")
        with pytest.raises(TokenError, match="at least one vector, got 0"):
            self.made(tiny_host, "cat", num_vectors=0)

    @pytest.mark.parametrize(
        ("labels", "init", "sentence"), [("abc", None, r"write \['abc'\]"), (["a"], " ", "is empty")]
    )
    def test_new_tokens_of_a_single_text_or_of_no_word_are_refused(self, tiny_host, labels, init, sentence):
        with pytest.raises(TokenError, match=sentence):
            new_tokens(tiny_host, labels, initializer_token=init)
