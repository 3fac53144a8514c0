"""The answer "unknown", and classes with this name."""

import json
from dataclasses import replace

import pytest
import torch

from mcti_core.classifiers.base import Scores, predictions
from mcti_core.cli.classify import record_of
from mcti_core.data.dataset import FewShotDataset
from mcti_core.errors import ExamplesError, TokenError
from mcti_core.evaluation.metrics import accuracy, per_class_table
from mcti_core.tokens.token_set import UNKNOWN


@pytest.mark.parametrize("label", ["unknown", "Unknown", "none", "null", "-1", ""])
def test_no_label_of_a_class_is_taken_for_the_answer_of_none(label):
    scores = Scores(torch.tensor([[9.0, 0.0], [0.1, 0.0]]), torch.zeros(2, dtype=torch.long))
    of_class, of_none = predictions((label, "b"), scores, threshold=0.9)
    assert (of_class.unknown, of_class.label, of_class.index) == (False, label, 0)
    assert (of_none.unknown, of_none.label, of_none.index) == (True, UNKNOWN, -1)
    records = [json.loads(json.dumps(record_of("x", answer))) for answer in (of_class, of_none)]
    assert [(record["unknown"], record["label"]) for record in records] == [(False, label), (True, None)]
    assert records[1]["top"][0]["label"] == label


def test_a_class_called_unknown_is_counted_like_any_other():
    predicted, labels = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    first, second = per_class_table(predicted, labels, ("unknown", "b"))
    assert accuracy(predicted, labels) == 2 / 3
    assert (first.label, first.recall, second.most_confused_with) == ("unknown", 1.0, "unknown")


def test_no_class_can_be_called_as_the_answer_of_none(tokens):
    with pytest.raises(TokenError, match="rename it"):
        replace(tokens, labels=("a", UNKNOWN, "c"))
    with pytest.raises(ExamplesError, match="rename it"):
        FewShotDataset.from_images({"a": torch.rand(1, 3, 8, 8), UNKNOWN: torch.rand(1, 3, 8, 8)})
