"""Splits of examples: training and test images are disjoint, and every test image is tested."""

import pytest
import torch

from mcti_core.data.dataset import FewShotDataset
from mcti_core.errors import ExamplesError
from mcti_core.evaluation.splits import cross_validation, given_split, joined

CLASSES = ("a", "b", "c")
LABELS = torch.tensor([0] * 7 + [1] * 2 + [2] * 5)


@pytest.mark.parametrize("folds", [2, 3, 10])
def test_cross_validation_tests_every_example_once_per_shuffle(folds):
    split = cross_validation(LABELS, CLASSES, folds)
    for shuffle in (0, 1):
        parts = [split(1, folds * shuffle + fold) for fold in range(folds)]
        assert sorted(torch.cat([test for _, test in parts]).tolist()) == list(range(len(LABELS)))
        for train, test in parts:
            assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(LABELS)))
            assert set(LABELS[train].tolist()) == {0, 1, 2}  # every class has an example to learn from
        sizes = [len(test) for _, test in parts if len(test)]
        assert max(sizes) - min(sizes) <= 2


def test_cross_validation_of_another_shuffle_differs():
    split = cross_validation(LABELS, CLASSES, 2)
    assert split(1, 0)[1].tolist() != split(1, 2)[1].tolist()


def test_cross_validation_of_a_class_with_one_image_is_refused():
    with pytest.raises(ExamplesError, match="every class needs at least two"):
        cross_validation(torch.tensor([0, 0, 1]), ("a", "b"), 2)


def test_given_split_tests_on_the_test_images_whatever_the_shots():
    images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    train = FewShotDataset.from_images({"a": images[:3], "b": images[3:5]})
    test = FewShotDataset.from_images({"b": images[5:7], "a": images[7:]})
    whole = joined(train, test, [1, 0])
    assert whole.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 0]
    assert torch.equal(whole.images[5], images[5])
    split = given_split(whole.labels, whole.classes, len(train))
    assert [part.tolist() for part in split(3, 0)] == [[0, 1, 2, 3, 4], [5, 6, 7]]  # 3, the most, is all there are
    few, others = split(1, 0)
    assert whole.labels[few].tolist() == [0, 1]
    assert max(few.tolist()) < 5
    assert others.tolist() == [5, 6, 7]
    with pytest.raises(ExamplesError, match="too few for 4 shots"):
        split(4, 0)
