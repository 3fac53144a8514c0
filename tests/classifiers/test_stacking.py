import math

import pytest
import torch
import torch.nn.functional as F

from mcti_core.classifiers.stacking import held_out_logits, stacking_weights

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3])


def test_no_example_is_judged_by_a_part_that_has_seen_it():
    features, seen = torch.arange(7.0)[:, None], []

    def fit(some, labels):
        seen.append((set(some.flatten().tolist()), labels.tolist()))
        return lambda rest: torch.stack([rest[:, 0], rest[:, 0] * 0 + len(some)], 1).repeat(1, 2)

    logits = held_out_logits(features, LABELS, 4, fit)
    single = torch.tensor([3, 6])
    known = [i for i in range(7) if i not in single]
    assert logits[single].isnan().all()
    assert logits[known, 0].tolist() == known
    out = [set(range(7)) - some for some, _ in seen]
    assert sorted(i for fold in out for i in fold) == known
    for fold, (_, labels) in zip(out, seen, strict=True):
        assert len({int(LABELS[int(i)]) for i in fold}) == len(fold)  # one of a class at most
        assert set(labels) == {0, 1, 2, 3}


def test_many_examples_need_no_more_than_ten_fits():
    calls = []
    labels = torch.arange(2).repeat_interleave(25)

    def fit(some, theirs):
        calls.append(torch.bincount(theirs).tolist())
        return lambda rest: torch.zeros(len(rest), 2)

    assert held_out_logits(torch.zeros(50, 1), labels, 2, fit).isfinite().all()
    assert len(calls) == 10
    assert min(min(counts) for counts in calls) == 22


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
    knows, noise = (
        3.0 * F.one_hot(labels, 4) + torch.randn(80, 4, generator=generator),
        torch.randn(80, 4, generator=generator),
    )
    for parts, first in (((knows, noise), 0), ((noise, knows), 1)):
        weights = stacking_weights(parts, labels, (1.0, 1.0))
        assert weights[first] >= 4 * weights[1 - first]


def test_without_known_examples_the_first_weights_stay():
    nothing = torch.full((3, 4), torch.nan)
    assert stacking_weights(
        [torch.zeros(3, 4), nothing], torch.tensor([0, 1, 2]), (1.0, 0.3)
    ).tolist() == pytest.approx([1.0, 0.3])
