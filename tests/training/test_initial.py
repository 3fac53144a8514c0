from dataclasses import replace

import pytest
import torch

from mcti_core.errors import TokenError
from mcti_core.training.initial import take_over


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
