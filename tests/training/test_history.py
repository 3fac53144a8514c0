import math

import pytest
import torch

from mcti_core.training.history import TERMS, History, gradients


def _vectors(value=0.0):
    vectors = {"clip_l": torch.full((2, 1, 3), value, requires_grad=True)}
    vectors["clip_l"].grad = torch.ones(2, 1, 3)
    return vectors


def _step(number):
    return {"loss": torch.tensor(float(number)), "classification": torch.tensor(number / 2)}


def test_what_was_added_is_read_in_order():
    history = History(_vectors())
    for number in range(5):
        history.add(_step(number))
        if number == 2:
            history.read()
    assert (len(history), len(history.rows)) == (5, 3)
    history.read()
    history.read()  # nothing new
    columns = history.columns()
    assert columns["loss"] == (0, 1, 2, 3, 4)
    assert columns["classification"] == (0, 0.5, 1, 1.5, 2)
    assert all(math.isnan(value) for value in columns["reconstruction"])
    assert tuple(columns) == TERMS
    assert history.first_nonfinite_step is None


@pytest.mark.parametrize("reads", [(), (0, 1, 2, 3, 4, 5), (3,)])
@pytest.mark.parametrize("wrong", ["loss", "gradient", "vectors"])
def test_the_first_number_that_is_not_finite_and_the_vectors_before_it(wrong, reads):
    vectors = _vectors()
    history = History(vectors)
    for step in range(6):
        bad = step in (2, 4)
        with torch.no_grad():
            vectors["clip_l"].fill_(math.inf if wrong == "vectors" and bad else float(step))
            vectors["clip_l"].grad.fill_(math.nan if wrong == "gradient" and bad else 1.0)
        history.add({"loss": torch.tensor(math.nan if wrong == "loss" and bad else 1.0)})
        if step in reads:
            history.read()
    assert reads or history.first_nonfinite_step is None  # nobody has looked
    history.read()
    assert history.first_nonfinite_step == 2
    expected = 1.0 if wrong == "vectors" else 2.0  # the loss and the gradient came from vectors that were finite
    assert torch.equal(history.last_finite["clip_l"], torch.full((2, 1, 3), expected))


def test_a_last_step_to_vectors_that_are_not_finite_is_seen_too():
    vectors = _vectors(1.0)
    history = History(vectors)
    for step in range(3):
        history.add(_step(step))
    with torch.no_grad():
        vectors["clip_l"].fill_(math.inf)  # as an optimizer with a huge learning rate may
    history.read()
    assert history.first_nonfinite_step == 2
    assert torch.equal(history.last_finite["clip_l"], torch.ones(2, 1, 3))


def test_vectors_without_a_gradient_are_passed_over():
    vectors = {**_vectors(1.0), "clip_g": torch.zeros(2, 1, 3, requires_grad=True)}
    assert len(gradients(vectors)) == 1
    history = History(vectors)
    history.add(_step(0))
    history.read()
    assert history.first_nonfinite_step is None
