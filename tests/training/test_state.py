import math
import struct
from dataclasses import replace

import pytest
import torch

from mcti_core.errors import ConfigError, ResumeError
from mcti_core.training.loop import TrainConfig, train
from mcti_core.training.state import _is_generator_state

CONFIG = TrainConfig(
    steps=6, classification_only_steps=2, batch_size=2, lr=1e-2, lr_warmup_steps=3, gamma=1.0, gamma_end=1e-3, eval_steps=3, patience=9, max_classes_per_step=2,
    templates=("a photo of a {}", "a drawing of the {}"),
)  # fmt: skip


class BrokenError(Exception):
    """What a host throws when its user cancels."""


class BrokenOff:
    """A denoiser that raises in its ``call``-th call, in the middle of a step whose random numbers are drawn already."""

    def __init__(self, denoiser, call):
        self.denoiser, self.left = denoiser, call
        self.sigmas, self.noised, self.weight = denoiser.sigmas, denoiser.noised, denoiser.weight

    def denoise(self, *arguments):
        self.left -= 1
        if not self.left:
            raise BrokenError
        return self.denoiser.denoise(*arguments)


def _kept(host, cache, tokens, call=4):
    """The last state before the training breaks off in a call of the denoiser."""
    states, broken = [], replace(host, denoiser=BrokenOff(host.denoiser, call))
    with pytest.raises(BrokenError):
        train(broken, cache, tokens, CONFIG, on_step=lambda info: states.append(info.state))
    return states[-1]()


@pytest.fixture
def state(tiny_host, cache, tokens):
    return _kept(tiny_host, cache, tokens)


def _same(first, second):
    assert first.history.keys() == second.history.keys()
    for name, column in first.history.items():
        assert torch.equal(torch.tensor(column).nan_to_num(-1), torch.tensor(second.history[name]).nan_to_num(-1))
    assert all(torch.equal(vectors, second.tokens.vectors[name]) for name, vectors in first.tokens.vectors.items())


@pytest.mark.parametrize("call", [2, 3, 5, 7])
def test_goes_on_as_if_there_had_been_no_break(tiny_host, cache, tokens, call):
    whole, state, seen = train(tiny_host, cache, tokens, CONFIG), _kept(tiny_host, cache, tokens, call), []
    assert 0 < state.step < 8
    rest = train(tiny_host, cache, tokens, CONFIG, resume=state, on_step=lambda info: seen.append(info.step))
    assert seen == list(range(state.step + 1, 9))
    _same(whole, rest)


def test_a_state_can_be_gone_on_from_twice(tiny_host, cache, tokens, state):
    _same(*(train(tiny_host, cache, tokens, CONFIG, resume=state) for _ in range(2)))


def test_another_training_cannot_go_on_from_it(tiny_host, cache, tokens, state):
    others = {
        "gamma, seed": (cache, tokens, replace(CONFIG, gamma=0.5, seed=1)),
        "set of examples": (cache.pick(torch.arange(len(cache)).flip(0)), tokens, CONFIG),
        "set of first tokens": (cache, tokens.with_vectors({k: v + 1 for k, v in tokens.vectors.items()}), CONFIG),
    }
    for differing, (examples, first, config) in others.items():
        with pytest.raises(ConfigError, match=f"resumed: different {differing}$"):
            train(tiny_host, examples, first, config, resume=state)


def _vectors(change):
    return lambda state: {"vectors": {name: change(vector) for name, vector in state.vectors.items()}}


def _moment(name, change):
    return lambda state: {"moments": {0: {**state.moments[0], name: change(state.moments[0][name])}}}


def _rows(change):
    return lambda state: {"history": tuple(change(row) for row in state.history)}


def _generator(index, kind, place, value):
    def change(state):
        content = bytearray(state.generators[index].numpy().tobytes())
        struct.pack_into(kind, content, place, value)
        generators = list(state.generators)
        generators[index] = torch.frombuffer(content, dtype=torch.uint8)
        return {"generators": tuple(generators)}

    return change


@pytest.mark.parametrize(
    "wrong",
    [
        lambda state: {"vectors": {}},
        lambda state: {"vectors": {**state.vectors, "clip_x": torch.ones(3, 1, 32)}},
        _vectors(lambda v: v[:1]),
        _vectors(lambda v: torch.full_like(v, torch.nan)),
        _vectors(lambda v: torch.full_like(v, 1e30)),
        _vectors(lambda v: torch.full_like(v, -(2**63), dtype=torch.long)),
        lambda state: {"moments": {7: state.moments[0]}},
        lambda state: {"moments": {-1: state.moments[0]}},
        lambda state: {"moments": {0: {"step": torch.tensor(1.0)}}},
        *(
            _moment("step", lambda _, step=step: torch.tensor(step))
            for step in (-5.0, 1e30, torch.nan, True, [1.0, 1.0])
        ),
        _moment("exp_avg", lambda mean: torch.ones(2)),
        _moment("exp_avg", lambda mean: mean * torch.nan),
        _moment("exp_avg", lambda mean: mean + 1e4),
        _moment("exp_avg", lambda mean: torch.full_like(mean, 1e38)),
        _moment("exp_avg_sq", lambda square: square - 1),
        lambda state: {"history": state.history * 9},
        *(_rows(lambda row, loss=loss: {**row, "loss": loss}) for loss in (1e308, -1e308, math.inf, math.nan)),
        _rows(lambda row: {"x": 1.0}),
        *(lambda state, best=best: {"best": best} for best in ((-math.inf, 1), (math.nan, 1), (1.0, 10**300))),
        lambda state: {"generators": state.generators[:1]},
        lambda state: {"generators": tuple(torch.zeros(3, dtype=torch.uint8) for _ in state.generators)},
        lambda state: {"generators": tuple(generator.float() for generator in state.generators)},
        _generator(1, "<i", 8, 624),
        _generator(0, "<Q", 16, 624),
        _generator(0, "<d", 5024, 1e300),
        _generator(0, "<f", 5048, math.nan),
        lambda state: {"batches": {}},
        lambda state: {"batches": {**state.batches, "turn": [99]}},
        lambda state: {"batches": {**state.batches, "0": [10**9]}},
        lambda state: {"gradient_norms": torch.ones(3)},
    ],
)
def test_state_whose_content_does_not_fit_is_refused_before_a_step(tiny_host, cache, tokens, state, wrong):
    """As a kept training that somebody changed may hold."""
    changed = replace(state, **wrong(state))
    with pytest.raises(ResumeError, match="its content does not fit"):
        train(tiny_host, cache, tokens, CONFIG, resume=changed, on_step=lambda info: pytest.fail("a step"))


def test_every_state_of_a_generator_is_one():
    generator = torch.Generator().manual_seed(7)
    for count in range(1400):
        assert _is_generator_state(generator.get_state())
        torch.randn(count % 20, generator=generator, dtype=torch.float64 if count % 3 else torch.float32)
        torch.randperm(count % 7, generator=generator)
