import pytest
import torch

from mcti_core.errors import ConfigError
from mcti_core.evaluation.metrics import (
    accuracy,
    calibration_bins,
    confusion_matrix,
    expected_calibration_error,
    per_class_table,
)


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 4, (200,), generator=generator), torch.randint(0, 4, (200,), generator=generator)


def test_accuracy_is_the_diagonals_share(answers):
    matrix = confusion_matrix(*answers, 4)
    assert accuracy(*answers) == pytest.approx(int(matrix.diagonal().sum()) / 200)
    assert accuracy(answers[1], answers[1]) == 1.0


def test_confusion_matrix_counts_by_hand(answers):
    predicted, labels = answers
    matrix = confusion_matrix(predicted, labels, 5)
    assert matrix.dtype == torch.int64
    for row in range(5):
        for column in range(5):
            assert matrix[row, column] == ((predicted == column) & (labels == row)).sum()
    assert torch.equal(confusion_matrix(labels, predicted, 5), matrix.T)


def test_unknown_is_wrong_and_in_no_column():
    predicted, labels = torch.tensor([0, -1, 1]), torch.tensor([0, 0, 1])
    assert accuracy(predicted, labels) == pytest.approx(2 / 3)
    assert confusion_matrix(predicted, labels, 2).tolist() == [[1, 0], [0, 1]]
    first, second = per_class_table(predicted, labels, ["a", "b"])
    assert (first.recall, first.precision, first.most_confused_with) == (0.5, 1.0, None)
    assert second.recall == 1.0


def test_table():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 1, 1, 1, 0, 1])
    a, b, c, d = per_class_table(predicted, labels, ["a", "b", "c", "d"])
    assert (a.label, a.images, a.precision, a.recall, a.most_confused_with) == ("a", 4, 2 / 3, 0.5, "b")
    assert (b.images, b.precision, b.recall, b.most_confused_with) == (2, 0.25, 0.5, "a")
    assert (c.recall, c.most_confused_with) == (0.0, "b")
    assert c.precision is None
    assert d.recall is None
    assert d.images == 0


def test_images_of_the_table_add_up(answers):
    table = per_class_table(*answers, list("abcd"))
    assert sum(row.images for row in table) == 200
    assert sum(row.images * row.recall for row in table) / 200 == pytest.approx(accuracy(*answers))


@pytest.mark.parametrize(
    "call",
    [
        lambda: accuracy(torch.tensor([1, 2]), torch.tensor([1])),
        lambda: accuracy(torch.tensor([]), torch.tensor([])),
        lambda: confusion_matrix(torch.tensor([2]), torch.tensor([0]), 2),
        lambda: confusion_matrix(torch.tensor([0]), torch.tensor([-1]), 2),
    ],
)
def test_refusals(call):
    with pytest.raises(ConfigError):
        call()


def test_confusion_matrix_rows_sum_to_the_classes_images(answers):
    predicted, labels = answers
    assert confusion_matrix(predicted, labels, 5).sum(1).tolist() == torch.bincount(labels, minlength=5).tolist()


def test_calibration_error_by_hand():
    confidences, correct = torch.tensor([0.95, 0.95, 0.55, 0.0]), torch.tensor([True, False, True, False])
    bins = calibration_bins(confidences, correct, bins=10)
    assert [(each.images, each.accuracy) for each in bins] == [(1, 0.0), (1, 1.0), (2, 0.5)]
    assert expected_calibration_error(bins) == pytest.approx((0 + 0.45 + 2 * 0.45) / 4)


def test_calibration_error_of_confidences_that_are_true_is_small():
    confidences = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    correct = torch.rand(20_000, generator=torch.Generator().manual_seed(1)) < confidences
    assert expected_calibration_error(calibration_bins(confidences, correct)) < 0.02
    assert expected_calibration_error(calibration_bins(confidences.square(), correct)) > 0.1
