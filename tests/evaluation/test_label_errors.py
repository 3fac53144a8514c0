"""Examples with a wrong label are found by their features."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from mcti_core.classifiers.calibration import fit_temperature
from mcti_core.classifiers.stacking import held_out_logits
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.errors import ConfigError
from mcti_core.evaluation.label_errors import rank_label_errors


@pytest.fixture
def clean():
    """Four well separated classes of eight."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(8)
    features = torch.randn(4, 1, 16, generator=generator)[labels] + 0.4 * torch.randn(32, 1, 16, generator=generator)
    return FeatureCache(tuple("abcd"), labels, None, normalize(features, dim=-1), "clean")


def test_wrong_labels_come_first_with_the_right_class(clean):
    wrong = {5: 3, 18: 0}
    labels = clean.labels.clone()
    for index, label in wrong.items():
        labels[index] = label
    found = rank_label_errors(replace(clean, labels=labels))
    assert {index: suggested for index, suggested, _ in found[:2]} == {i: int(clean.labels[i]) for i in wrong}
    logits = held_out_logits(clean.features[:, 0], labels, 4)
    confidences = (logits / fit_temperature(logits, labels)).softmax(1)
    margins = [confidences[index, suggested] - confidences[index, labels[index]] for index, suggested, _ in found]
    assert margins == sorted(margins, reverse=True)


def test_right_labels_are_not_reported(clean):
    assert rank_label_errors(clean) == []


def test_class_of_one_image_is_not_judged(clean):
    rows = torch.tensor([0, 1, 2, 3, 5, 6, 7])  # class a has index 0 only
    assert 0 not in {index for index, *_ in rank_label_errors(clean.pick(rows))}
    with pytest.raises(ConfigError, match="one image"):
        rank_label_errors(clean.pick(torch.arange(4)))
