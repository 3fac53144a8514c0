"""The sequential test, against scipy and against its promises on errors that follow its model."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import t as student

from mcti_core.classifiers.sequential_test import (
    BORROWED,
    FIRST,
    best_class,
    eliminated,
    looks,
    sequential_elimination,
    t_quantile,
)


def raced(errors, error, tried=None):
    """Decisions, and pairs seen, of a table (B, C, P)."""
    tried = torch.ones(errors.shape[:2], dtype=torch.bool) if tried is None else tried
    found, seen = sequential_elimination(
        lambda going, start, end: errors[going][:, start:end], tried, errors.shape[2], error
    )
    return best_class(found, seen), seen


def drawn(images, classes, pairs, apart, seed=0):
    """Errors as the model has them: normal, with class means ``apart`` times as far apart as one pair's noise."""
    generator = torch.Generator().manual_seed(seed)
    means = apart * torch.randn(images, classes, 1, generator=generator)
    shared = 3 * torch.randn(images, 1, pairs, generator=generator)
    return 10 + means + shared + torch.randn(images, classes, pairs, generator=generator)


@pytest.mark.parametrize("freedom", [1, 2, 11, 71])
def test_t_quantile_is_exceeded_with_the_chance_given(freedom):
    chances = torch.tensor([0.5, 0.05, 1e-6, 0.0], dtype=torch.double)
    bounds = t_quantile(chances, freedom)
    assert student.sf(bounds.double().numpy(), freedom) == pytest.approx(chances.numpy(), rel=1e-5)
    assert bounds[-1] == torch.inf


@pytest.mark.parametrize("pairs", [1, 2, 3, 4, 5, 20, 64, 1000])
def test_looks_rise_to_the_last_pair(pairs):
    counts = looks(pairs)
    assert counts[0] == min(FIRST, pairs)
    assert counts[-1] == pairs
    assert list(counts) == sorted(set(counts))
    assert all(after <= before * 1.1 + 1 for before, after in pairwise(counts))


def test_the_leader_is_never_stopped_and_the_others_are_at_the_end():
    errors, alive = drawn(50, 5, 12, 0.5), torch.ones(50, 5, dtype=torch.bool)
    for n in (4, 8, 12):
        leader = errors[..., :n].mean(2).argmin(1)
        for bound in (0.0, 1.0, math.inf):
            stopped = eliminated(errors[..., :n], alive, 12, torch.full((50,), bound))
            assert not stopped[torch.arange(50), leader].any()
            if n == 12:
                assert (stopped.sum(1) == 4).all()


def test_who_is_not_alive_counts_for_nothing():
    errors, alive = drawn(30, 5, 8, 0.5), torch.ones(30, 5, dtype=torch.bool)
    alive[:, 2] = False
    bound = torch.full((30,), 2.0)
    stopped = eliminated(errors, alive, 16, bound)
    spoiled = errors.clone()
    spoiled[:, 2] = -1000.0
    assert torch.equal(eliminated(spoiled, alive, 16, bound), stopped)
    kept = [0, 1, 3, 4]
    assert torch.equal(eliminated(errors[:, kept], alive[:, kept], 16, bound), stopped[:, kept])
    assert not stopped[:, 2].any()
    assert stopped.any()


def test_variance_is_borrowed_from_the_rivals():
    """Two rivals as far away: the one that varies less is stopped first, but its own variance is not all that counts.

    Variances 0.0114 and 4.571 with weight 7, their mean 2.291 with weight 8: 1.2274 and 3.3554; t is sqrt(8) over the root of
    three quarters of them. Alone they would give 30.6 and 1.53.
    """
    noise = torch.tensor([1.0, -1.0] * 4)
    errors = torch.stack([torch.zeros(8), 1 + 0.1 * noise, 1 + 2 * noise])[None]
    assert BORROWED == 8
    for bound, expected in ((1.78, [True, True]), (1.79, [True, False]), (2.94, [True, False]), (2.95, [False, False])):
        stopped = eliminated(errors, torch.ones(1, 3, dtype=torch.bool), 32, torch.tensor([bound]).double())
        assert stopped[0].tolist() == [False, *expected]


@pytest.mark.parametrize("error", [0.05, 0.2])
@pytest.mark.parametrize("apart", [0.3, 1.0])
def test_the_error_level_is_kept_where_classes_differ(apart, error):
    errors = drawn(2000, 8, 48, apart)
    decided, seen = raced(errors, error)
    changed = (decided != errors.mean(2).argmin(1)).float().mean().item()
    assert changed <= error + 2 * (error / 2000) ** 0.5
    assert seen.float().mean() < 0.55 * 48


@pytest.mark.parametrize("error", [0.05, 0.2])
def test_where_classes_do_not_differ_the_error_level_is_exceeded_as_documented(error):
    """There is nothing to win then, and the leader of many looks is nobody in particular."""
    errors = drawn(2000, 8, 48, 0.0)
    decided, _ = raced(errors, error)
    changed = (decided != errors.mean(2).argmin(1)).float().mean().item()
    assert error / 2 < changed <= 1.6 * error + 2 * (error / 2000) ** 0.5


def test_a_smaller_error_costs_more_and_zero_costs_all():
    errors = drawn(300, 8, 48, 0.4)
    spent = [raced(errors, error)[1].sum().item() for error in (0.5, 0.2, 0.05, 0.001)]
    assert spent == sorted(spent)
    assert spent[0] < spent[-1]
    decided, seen = raced(errors, 0)
    assert (seen == 48).all()
    assert torch.equal(decided, errors.mean(2).argmin(1))


def test_what_is_far_apart_is_decided_at_the_first_look():
    decided, seen = raced(drawn(20, 6, 64, 0.0) - 50 * torch.eye(6)[2][:, None], 0.01)
    assert (decided == 2).all()
    assert (seen == FIRST).all()


def test_the_level_is_shared_among_those_tried():
    """Two classes of eight tried are as two classes."""
    errors, tried = drawn(40, 8, 40, 0.3), torch.zeros(40, 8, dtype=torch.bool)
    tried[:, [1, 6]] = True
    assert torch.equal(raced(errors, 0.1, tried)[1][:, [1, 6]], raced(errors[:, [1, 6]], 0.1)[1])


def test_nothing_is_asked_twice_or_for_nothing():
    errors, asked = drawn(6, 5, 40, 0.5), torch.zeros(6, 5, 40)

    def evaluate(going, start, end):
        asked[..., start:end][going] += 1
        return errors[going][:, start:end]

    found, seen = sequential_elimination(evaluate, torch.ones(6, 5, dtype=torch.bool), 40, 0.1)
    assert torch.equal(asked, (torch.arange(40) < seen[..., None]).float())
    assert torch.equal(found, errors * asked)
    assert ((seen == seen.amax(1, keepdim=True)).sum(1) >= 2).all()  # the last two leave together
