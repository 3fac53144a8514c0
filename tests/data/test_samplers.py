from itertools import islice

import pytest
import torch

from mcti_core.data.samplers import ClassBalancedBatchSampler

LABELS = torch.tensor([0, 1, 1, 2, 2, 2, 2, 0, 2])


def _drawn(count, size, classes=(0, 1, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(list(islice(ClassBalancedBatchSampler(LABELS, classes, size, generator), count)))


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_class_equally_often(size):
    drawn = LABELS[_drawn(30, size)]
    assert torch.bincount(drawn[: len(drawn) // 3 * 3]).tolist() == [len(drawn) // 3] * 3
    for start in range(0, len(drawn) - 2, 3):  # in every round of classes
        assert sorted(drawn[start : start + 3].tolist()) == [0, 1, 2]


def test_every_image_once_before_twice():
    drawn = _drawn(40, 3)
    for label in range(3):
        own = drawn[LABELS[drawn] == label]
        count = LABELS.tolist().count(label)
        for start in range(0, len(own) - count + 1, count):
            assert len(own[start : start + count].unique()) == count


def test_only_the_classes_asked_for():
    assert set(LABELS[_drawn(20, 2, classes=[2, 0])].tolist()) == {0, 2}


def test_seeded_and_shuffled():
    assert torch.equal(_drawn(10, 3), _drawn(10, 3))
    assert not torch.equal(_drawn(10, 3), _drawn(10, 3, seed=1))
    rounds = _drawn(40, 3).view(-1, 3)
    assert len({tuple(LABELS[row].tolist()) for row in rounds}) > 1


@pytest.mark.parametrize("after", [0, 1, 7])
def test_goes_on_from_its_state(after):
    generator = torch.Generator().manual_seed(3)
    batches = ClassBalancedBatchSampler(LABELS, (0, 1, 2), 4, generator)
    for _ in range(after):
        next(batches)
    state, random = batches.state(), generator.get_state()
    expected = [next(batches).tolist() for _ in range(9)]
    generator = torch.Generator().manual_seed(99)
    other = ClassBalancedBatchSampler(LABELS, (0, 1, 2), 4, generator)
    next(other)
    generator.set_state(random)
    other.restore(state)
    assert [next(other).tolist() for _ in range(9)] == expected
