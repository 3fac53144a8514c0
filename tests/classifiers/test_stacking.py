import math

import pytest
import torch
import torch.nn.functional as F

from mcti_core.classifiers import stacking
from mcti_core.classifiers.stacking import held_out_logits, stacking_weights

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3])


@pytest.fixture
def fits(monkeypatch):
    """(features, labels) of each fit. The first logit is the feature."""
    seen = []

    class Fit:
        def __init__(self, features, labels, classes):
            seen.append((features.flatten().tolist(), labels))
            self.logits = lambda rest: rest[:, :1].expand(-1, classes)

    monkeypatch.setattr(stacking, "LogisticRegression", Fit)
    return seen


def test_no_example_is_judged_by_a_part_that_has_seen_it(fits):
    logits = held_out_logits(torch.arange(7.0)[:, None], LABELS, 4)
    single = torch.tensor([3, 6])
    known = [i for i in range(7) if i not in single]
    assert logits[single].isnan().all()
    assert logits[known, 0].tolist() == known
    folds = [set(range(7)) - set(features) for features, _ in fits]
    assert sorted(i for fold in folds for i in fold) == known
    for fold, (_, labels) in zip(folds, fits, strict=True):
        assert len({int(LABELS[int(i)]) for i in fold}) == len(fold)  # one of a class at most
        assert set(labels.tolist()) == {0, 1, 2, 3}


def test_many_examples_need_no_more_than_ten_fits(fits):
    assert held_out_logits(torch.zeros(50, 1), torch.arange(2).repeat_interleave(25), 2).isfinite().all()
    assert len(fits) == 10
    assert min(int(torch.bincount(labels).min()) for _, labels in fits) == 22


def test_weights_have_the_least_cost_of_all():
    generator = torch.Generator().manual_seed(0)
    parts, labels = [torch.randn(7, 4, generator=generator) for _ in range(2)], LABELS
    parts[0][torch.arange(7), labels] += 2
    found = stacking_weights(parts, labels, (1.0, 0.5)).tolist()

    def cost(a, b):
        pull = 3 * (math.log2(a) ** 2 + math.log2(2 * b) ** 2)
        return float(F.cross_entropy(a * parts[0] + b * parts[1], labels, reduction="sum")) + pull

    steps = [2.0**power for power in range(-3, 4)]
    assert cost(*found) == pytest.approx(min(cost(a, b / 2) for a in steps for b in steps), rel=1e-6)


def test_a_part_that_knows_nothing_counts_less_than_one_that_knows():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(20)
    noises = torch.randn(2, 80, 4, generator=generator)
    knows, noise = 3.0 * F.one_hot(labels, 4) + noises[0], noises[1]
    for parts, first in (((knows, noise), 0), ((noise, knows), 1)):
        weights = stacking_weights(parts, labels, (1.0, 1.0))
        assert weights[first] >= 4 * weights[1 - first]


def test_without_known_examples_the_first_weights_stay():
    parts = [torch.zeros(3, 4), torch.full((3, 4), torch.nan)]
    assert stacking_weights(parts, torch.tensor([0, 1, 2]), (1.0, 0.3)).tolist() == pytest.approx([1.0, 0.3])
