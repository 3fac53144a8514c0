from itertools import pairwise

import pytest

from mcti_core.training.config import TrainConfig
from mcti_core.training.schedules import gamma_at, learning_rate

DECAY = TrainConfig(steps=100, gamma=2.0, gamma_end=0.02, classification_only_steps=10)


def test_gamma_at_is_exponential_from_gamma_to_gamma_end():
    values = [gamma_at(DECAY, step) for step in range(111)]
    assert values[:11] == [2.0] * 11  # the classification-only steps, and the first of the others
    assert values[60] == pytest.approx(0.2)
    assert [after / before for before, after in pairwise(values[10:])] == pytest.approx([0.01 ** (1 / 100)] * 100)


@pytest.mark.parametrize("gamma", [0.7, 0.0])
def test_gamma_at_without_an_end_or_of_zero_is_constant(gamma):
    for end in (None, 1e-4 if gamma == 0 else None):
        config = TrainConfig(steps=100, gamma=gamma, gamma_end=end)
        assert {gamma_at(config, step) for step in (0, 50, 99)} == {gamma}


def test_learning_rate_rises_linearly_and_falls_as_a_cosine_to_zero():
    config = TrainConfig(steps=90, classification_only_steps=10, lr=1.0, lr_warmup_steps=4)
    assert [learning_rate(config, step) for step in (0, 3)] == pytest.approx([0.2, 0.8], rel=3e-3)
    assert [learning_rate(config, step) for step in (50, 100)] == pytest.approx([0.5, 0.0])
