import math

import pytest
import torch

from mcti_core.history import TERMS, History, LastFinite, gradients


def _step(number):
    return {"loss": torch.tensor(float(number)), "classification": torch.tensor(number / 2)}


def test_what_was_added_is_read_in_order():
    history = History()
    for number in range(5):
        history.add(_step(number), torch.tensor(True))
        if number == 2:
            history.read()
    assert (len(history), len(history.rows)) == (5, 3)
    history.read()
    columns = history.columns()
    assert columns["loss"] == (0, 1, 2, 3, 4)
    assert columns["classification"] == (0, 0.5, 1, 1.5, 2)
    assert all(math.isnan(value) for value in columns["reconstruction"])
    assert tuple(columns) == TERMS
    assert history.broken is None


def test_the_first_step_that_was_not_sound_is_remembered():
    history = History()
    for number in range(6):
        history.add(_step(number), torch.tensor(number not in (2, 4)))
    assert history.broken is None  # nobody has looked
    history.read()
    history.read()
    assert history.broken == 2


def _vectors(value):
    vectors = {"clip_l": torch.full((2, 1, 3), value, requires_grad=True)}
    vectors["clip_l"].grad = torch.ones(2, 1, 3)
    return vectors


@pytest.mark.parametrize("wrong", ["loss", "gradient", "vectors"])
def test_the_vectors_before_the_first_number_that_is_not_finite(wrong):
    vectors = _vectors(0.0)
    last = LastFinite(vectors)
    sound = []
    for step in range(4):
        with torch.no_grad():
            vectors["clip_l"].fill_(math.inf if wrong == "vectors" and step == 2 else float(step))
            vectors["clip_l"].grad.fill_(math.nan if wrong == "gradient" and step == 2 else 1.0)
        sound.append(bool(last.look(torch.tensor(math.nan if wrong == "loss" and step == 2 else 1.0))))
    assert sound == [True, True, False, False]  # once is for good
    expected = 1.0 if wrong == "vectors" else 2.0  # the loss and the gradient came from vectors that were finite
    assert torch.equal(last.vectors["clip_l"], torch.full((2, 1, 3), expected))


def test_vectors_without_a_gradient_are_passed_over():
    vectors = {**_vectors(1.0), "clip_g": torch.zeros(2, 1, 3, requires_grad=True)}
    assert len(gradients(vectors)) == 1
    assert LastFinite(vectors).look(torch.tensor(1.0))
