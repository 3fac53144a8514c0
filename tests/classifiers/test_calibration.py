from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mcti_core.classifiers import calibration
from mcti_core.classifiers.calibration import (
    Calibration,
    answered_share,
    calibrate,
    calibrated_classifier,
    fit_temperature,
    left_out_gain,
    unknown_threshold,
)
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.hybrid import HybridClassifier, class_means
from mcti_core.errors import ConfigError, TokenError
from mcti_core.tokens.token_set import Support


@pytest.fixture
def support():
    """Six examples each of five classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat(6)
    features = torch.randn(5, 16, generator=generator)[labels] + 0.7 * torch.randn(30, 16, generator=generator)
    return Support(F.normalize(features, dim=1), labels)


def _draw(logits, generator):
    return torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("true", [0.2, 1.0, 5.0])
def test_the_temperature_that_made_the_labels_is_found(true):
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(4000, 5, generator=generator)
    assert fit_temperature(logits * true, _draw(logits, generator)) == pytest.approx(true, rel=0.1)


def test_temperature_follows_the_logits_scale():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(50, 4, generator=generator)
    labels = _draw(3 * logits, generator)
    assert fit_temperature(40 * logits, labels) == pytest.approx(40 * fit_temperature(logits, labels), rel=0.01)
    assert fit_temperature(logits + 5, labels) == pytest.approx(fit_temperature(logits, labels))


def test_temperature_minimises_the_smoothed_loss():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(20, 3, generator=generator)
    labels = _draw(3 * logits, generator)

    def loss(temperature):
        chances = (logits / temperature).log_softmax(1)
        return sum(-float(chances[i, c]) * (21 / 22 if c == labels[i] else 1 / 44) for i in range(20) for c in range(3))

    best = fit_temperature(logits, labels)
    assert all(loss(best) <= loss(best * factor) + 1e-6 for factor in (0.5, 0.98, 1.02, 2))


def test_a_perfect_score_does_not_make_certain():
    logits = 10 * torch.eye(4).repeat(2, 1)
    confidences = (logits / fit_temperature(logits, torch.arange(4).repeat(2))).softmax(1).amax(1)
    assert confidences.tolist() == pytest.approx([9 / 10] * 8, abs=1e-3)


def test_temperature_of_nothing_to_tell():
    assert fit_temperature(torch.zeros(3, 2), torch.tensor([0, 1, 0])) == 1.0


@pytest.mark.parametrize(("count", "refused"), [(1, 0), (7, 0), (19, 0), (20, 0), (39, 1), (100, 4)])
def test_threshold_is_the_greatest_that_accepts_enough(count, refused):
    confidences = torch.rand(count, generator=torch.Generator().manual_seed(count))
    threshold = unknown_threshold(confidences, 0.95)
    assert int((confidences < threshold).sum()) == refused
    assert (confidences == threshold).any()
    assert unknown_threshold(confidences, 1.0) == float(confidences.min())


@pytest.mark.parametrize("count", [19, 30, 79])
def test_threshold_is_reached_by_as_many_new_images_as_promised(count):
    """Of 4,000 random sets: the mean share of new images that pass, and its quantiles, are as described."""
    generator = torch.Generator().manual_seed(count)
    draws = torch.rand(4000, count, generator=generator)
    shares = torch.tensor([1 - unknown_threshold(row, 0.95) for row in draws])  # of new ones, as uniform
    reached = int((draws[0] >= unknown_threshold(draws[0], 0.95)).sum())
    mean, low, high = answered_share(reached, count)
    assert mean >= 0.95
    assert float(shares.mean()) == pytest.approx(mean, abs=0.005)
    assert float((shares < low).float().mean()) == pytest.approx(0.025, abs=0.01)
    assert float((shares > high).float().mean()) == pytest.approx(0.025, abs=0.01)


def test_share_of_very_many_examples_is_sure():
    mean, low, high = answered_share(95_000, 100_000)
    assert (round(mean, 3), round(low, 3), round(high, 3)) == (0.95, 0.949, 0.951)


def test_gain_is_exact_for_class_means(support):
    means = class_means(support.features, support.labels, 5)
    gain = left_out_gain(means, support)
    for i, (feature, label) in enumerate(zip(support.features, support.labels.tolist(), strict=True)):
        others = (support.labels == label) & (torch.arange(30) != i)
        without = F.normalize(support.features[others].mean(0), dim=0)
        assert float(feature @ means[label] - gain[i]) == pytest.approx(float(feature @ without), abs=1e-5)


def test_gain_is_none_where_a_token_has_nothing_of_its_examples(support):
    basis = torch.linalg.qr(class_means(support.features, support.labels, 5).T, mode="complete").Q
    aside = basis[:, 5:10].T  # unit vectors at right angles to all class means
    assert torch.allclose(left_out_gain(aside, support), torch.zeros(30), atol=1e-6)
    assert (left_out_gain(class_means(support.features, support.labels, 5), support) > 0).all()


@pytest.fixture
def carrying(tokens, tiny_host, support):
    """A function: the tiny tokens with these shots of a support whose images cluster about the tokens' own text features."""

    def make(shots):
        generator = torch.Generator().manual_seed(4)
        text = ClipClassifier(tiny_host, tokens).text
        labels = torch.arange(3).repeat_interleave(torch.as_tensor(shots))
        features = text[labels] + 0.25 * torch.randn(len(labels), text.shape[1], generator=generator)
        return replace(tokens, support=Support(F.normalize(features, dim=1), labels))

    return make


@pytest.mark.parametrize("kind", [ClipClassifier, HybridClassifier])
def test_calibrate_sets_the_temperature_and_returns_a_threshold(kind, carrying, tiny_host):
    tokens = carrying([20, 20, 20])
    classifier = kind(tiny_host, tokens)
    result = calibrate(classifier, tokens, accept=0.9)
    assert (classifier.temperature, classifier.threshold) == (result.temperature, 0)
    assert result.num_samples == 60
    assert 0 < result.threshold < 1
    assert f"{result.reached} of 60 examples reach it" in result.describe()
    assert 1e-3 < result.temperature < 1e3
    seen = (classifier.logits(tokens.support.features) / result.temperature).softmax(1).amax(1)
    assert (seen >= result.threshold).float().mean() >= 0.85  # seen images are surer than unseen ones


@pytest.mark.parametrize("method", ["clip", "hybrid"])
def test_a_threshold_is_set_only_on_request(method, carrying, tiny_host):
    tokens = carrying([5, 5, 5])
    plain = calibrated_classifier(method, tiny_host, tokens)
    rejecting = calibrated_classifier(method, tiny_host, tokens, calibrate_threshold=True)
    assert plain.temperature == rejecting.temperature != 1.0
    assert plain.threshold == 0.0 < rejecting.threshold


@pytest.mark.parametrize("kind", [ClipClassifier, HybridClassifier])
def test_examples_count_as_unseen(kind, carrying, tiny_host):
    tokens = carrying([2, 2, 2])
    classifier = kind(tiny_host, tokens)
    honest = calibrate(classifier, tokens).temperature
    assert honest > fit_temperature(classifier.logits(tokens.support.features), tokens.support.labels)


def test_one_example_a_class_measures_nothing(carrying, tiny_host):
    tokens = carrying([1, 1, 1])
    clip, hybrid = ClipClassifier(tiny_host, tokens), HybridClassifier(tiny_host, tokens, weight=0.5)
    assert calibrate(clip, tokens) == Calibration(1.0, 0.0, 0)
    assert calibrate(hybrid, tokens) == Calibration(1.5, 0.0, 0)


@pytest.mark.parametrize("kind", [ClipClassifier, HybridClassifier])
def test_classes_with_one_example_are_passed_over(kind, carrying, tiny_host):
    tokens = carrying([1, 3, 1])
    assert calibrate(kind(tiny_host, tokens), tokens).num_samples == 3


@pytest.mark.parametrize("kind", [ClipClassifier, partial(HybridClassifier, weight=1.0)])
def test_calibrate_on_evenly_spaced_examples_if_there_are_very_many(kind, carrying, tiny_host, monkeypatch):
    tokens, seen = carrying([10, 10, 10]), []
    monkeypatch.setattr(calibration, "fit_temperature", lambda logits, labels: seen.append((logits, labels)) or 1.0)
    assert calibrate(kind(tiny_host, tokens), tokens).num_samples == 30
    monkeypatch.setattr(calibration, "MAX_LOGITS", 30)
    assert calibrate(kind(tiny_host, tokens), tokens).num_samples == 10
    (whole, labels), (some, theirs) = seen
    torch.testing.assert_close(some, whole[::3])
    assert theirs.tolist() == labels[::3].tolist()


def test_refusals(tokens, tiny_host):
    classifier = ClipClassifier(tiny_host, tokens)
    with pytest.raises(TokenError, match="have no example features"):
        calibrate(classifier, replace(tokens, support=None))
    with pytest.raises(ConfigError, match="are not the tokens'"):
        calibrate(classifier, tokens.select([1, 0, 2]))
    with pytest.raises(ConfigError, match="accept"):
        calibrate(classifier, tokens, accept=0.0)
