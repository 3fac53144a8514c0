from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mcti_core.errors import ResumeError
from mcti_core.training.checkpoint import Checkpoint
from mcti_core.training.loop import TrainConfig, run_identity, train
from mcti_core.training.resume import describe_differences, resume_from

CONFIG = TrainConfig(steps=3, batch=2, lr=1e-2, templates=("a photo of a {}",))
PATH = Path("out") / "training.safetensors"


@pytest.fixture
def stored(tiny_host, cache, tokens):
    states = []
    train(tiny_host, cache, tokens, CONFIG, on_step=lambda info: states.append(info.state))
    return Checkpoint(states[1](), tokens.labels)


@pytest.fixture
def identity(tiny_host, cache):
    def of(config):
        return lambda first: run_identity(tiny_host, cache, first, config)

    return of


def test_the_same_training_goes_on_whole(stored, tokens, identity):
    for anyway in (False, True):
        start = resume_from(stored, tokens, identity(CONFIG), PATH, anyway)
        assert (start.state, start.first) == (stored.state, None)
        assert start.tokens is tokens


def test_every_difference_is_listed(stored, tokens, identity):
    other = replace(CONFIG, lr=0.5, seed=7, templates=("a drawing of a very long and particular {}",))
    moved = tokens.with_vectors({name: v + 1 for name, v in tokens.vectors.items()})
    with pytest.raises(ResumeError) as caught:
        resume_from(stored, moved, identity(other), PATH)
    told = str(caught.value)
    for part in ("training.safetensors", "lr was 0.01, is 0.5", "seed was 0, is 7", "different templates",
                 "different set of first tokens", "--resume anyway", "--restart"):  # fmt: skip
        assert part in told
    assert "gamma" not in told
    assert "examples" not in told


def test_differences_are_told_by_name():
    assert describe_differences({"lr": "1", "seed": "2"}, {"seed": "2", "lr": "1"}) == ""
    assert describe_differences({"lr": "1"}, {"lr": "2"}) == "lr was 1, is 2"
    assert describe_differences({}, {"lr": "2"}) == "lr was None, is 2"
    for name, value in (("model", "a"), ("set of tokens", "a"), ("images", "a" * 41)):
        assert describe_differences({name: value}, {name: "b"}) == f"different {name}"
    assert describe_differences({"lr": "1", "model": "a"}, {"lr": "2", "model": "b"}).split("; ") == [
        "lr was 1, is 2",
        "different model",
    ]


def test_anyway_takes_the_vectors_alone(stored, tokens, identity):
    start = resume_from(stored, tokens, identity(replace(CONFIG, lr=0.5)), PATH, anyway=True)
    assert start.state is None
    for name, learned in stored.state.vectors.items():
        assert torch.equal(start.tokens.vectors[name], learned)
        assert torch.equal(start.first[name], learned)


def test_anyway_goes_by_labels(stored, tokens, identity):
    others = replace(tokens, labels=("new", "c", "a"), names=())
    start = resume_from(stored, others, lambda first: {"lr": "other"}, PATH, anyway=True)
    for name, learned in stored.state.vectors.items():
        assert torch.equal(start.tokens.vectors[name], torch.stack([tokens.vectors[name][0], learned[2], learned[0]]))


def test_a_training_that_began_with_learned_vectors_can_be_gone_on_with(tiny_host, cache, tokens, stored, identity):
    config, states = replace(CONFIG, lr=0.5), []
    start = resume_from(stored, tokens, identity(config), PATH, anyway=True)
    whole = train(tiny_host, cache, start.tokens, config, on_step=lambda info: states.append(info.state))
    second = Checkpoint(states[0](), tokens.labels, start.first)
    again = resume_from(second, tokens, identity(config), PATH)
    assert again.state is second.state
    rest = train(tiny_host, cache, again.tokens, config, resume=again.state)
    assert all(torch.equal(rest.tokens.vectors[name], v) for name, v in whole.tokens.vectors.items())
    with pytest.raises(ResumeError, match=r"lr was 0\.5, is 0\.01"):
        resume_from(second, tokens, identity(CONFIG), PATH)


@pytest.mark.parametrize("case", ["labels", "count", "encoder", "rows"])
def test_where_nothing_fits_that_is_told(stored, tokens, case):
    if case == "labels":
        tokens = replace(tokens, labels=("x", "y", "z"), names=())
    if case == "count":
        tokens = tokens.with_vectors({name: v[:, :1] for name, v in tokens.vectors.items()})
    if case == "encoder":
        tokens = tokens.with_vectors({"other": next(iter(tokens.vectors.values()))})
    if case == "rows":
        vectors = {name: v[:2] for name, v in stored.state.vectors.items()}
        stored = replace(stored, state=replace(stored.state, vectors=vectors))
    with pytest.raises(ResumeError, match=r"nothing in .* fits.*2 x 32 numbers \(clip_l\) for a, b, c;"):
        resume_from(stored, tokens, lambda first: {}, PATH, anyway=True)
