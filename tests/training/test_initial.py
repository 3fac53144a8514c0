from dataclasses import replace

import pytest
import torch

from mcti_core.errors import TokenError
from mcti_core.training.initial import new_tokens, take_over


def test_take_over_goes_by_labels_and_leaves_the_others(tokens):
    trained = tokens.with_vectors({name: v + 1 for name, v in tokens.vectors.items()})
    others = replace(tokens, labels=("new", "C", "a"), names=())
    start = take_over(others, trained)
    for name, v in trained.vectors.items():
        assert torch.equal(start.vectors[name], torch.stack([tokens.vectors[name][0], v[2], v[0]]))
        assert not torch.equal(others.vectors[name], start.vectors[name])


@pytest.mark.parametrize("case", ["labels", "count", "encoder"])
def test_take_over_of_nothing_is_refused_with_what_there_is(tokens, case):
    trained = tokens
    if case == "labels":
        tokens = replace(tokens, labels=("x", "y", "z"), names=())
    if case == "count":
        tokens = tokens.with_vectors({name: v[:, :1] for name, v in tokens.vectors.items()})
    if case == "encoder":
        tokens = tokens.with_vectors({"other": next(iter(tokens.vectors.values()))})
    with pytest.raises(TokenError, match=r"the trained tokens cannot be used.*2 x 32 numbers \(clip_l\) for a, b, c;"):
        take_over(tokens, trained)


def test_new_tokens_start_at_a_word(tiny_host):
    encoder = tiny_host.text["clip_l"]
    (dog,) = encoder.tokenize("dog")
    tokens = new_tokens(tiny_host, ["my thing", "other"], num_vectors=2, initializer_token="dog")
    row = encoder.embed(torch.tensor(dog))
    assert (tokens.labels, tokens.names) == (("my thing", "other"), ("my-thing", "other"))
    assert torch.equal(tokens.vectors["clip_l"], row.expand(2, 2, -1))
    generic = new_tokens(replace(tiny_host, generic_word="cat"), ["a", "b"])
    assert torch.equal(
        generic.vectors["clip_l"], new_tokens(tiny_host, ["a", "b"], initializer_token="cat").vectors["clip_l"]
    )


def test_new_tokens_of_the_vocabularys_mean_or_deviation(tiny_host):
    table = tiny_host.text["clip_l"].embed(torch.arange(tiny_host.text["clip_l"].vocabulary_size))
    mean = new_tokens(tiny_host, ["a", "b"], initializer_token="mean").vectors["clip_l"]
    assert torch.allclose(mean, table.mean(0).expand(2, 1, -1), atol=1e-6)
    labels = [f"class {i}" for i in range(400)]
    random = new_tokens(tiny_host, labels, initializer_token="random", seed=1).vectors["clip_l"][:, 0]
    assert torch.allclose(random.std(0), table.std(0), rtol=0.2)
    assert torch.allclose(random.mean(0), table.mean(0), atol=0.25 * float(table.std(0).max()))
    again = new_tokens(tiny_host, labels, initializer_token="random", seed=1).vectors["clip_l"][:, 0]
    other = new_tokens(tiny_host, labels, initializer_token="random", seed=2).vectors["clip_l"][:, 0]
    assert torch.equal(random, again)
    assert not torch.equal(random, other)


def test_new_tokens_that_cannot_be(tiny_host):
    with pytest.raises(TokenError, match="2 tokens"):
        new_tokens(tiny_host, ["a", "b"], initializer_token="dog cat", num_vectors=3)
    with pytest.raises(TokenError, match="at least one vector"):
        new_tokens(tiny_host, ["a", "b"], num_vectors=0)
