import logging
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mcti_core.classifiers.calibration import calibrate
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.hybrid import HybridClassifier
from mcti_core.classifiers.logistic import LogisticRegression
from mcti_core.errors import ConfigError, TokenError
from mcti_core.tokens.token_set import Support


def test_hybrid_without_weight_is_clip(tiny_host, tokens, classifiers, images):
    hybrid = HybridClassifier(tiny_host, tokens, weight=0.0)
    assert torch.allclose(hybrid.scores(images).logits, classifiers["clip"].scores(images).logits, atol=1e-6)


def test_hybrid_adds_cosines_with_class_means(tiny_host, tokens, classifiers, cache, images):
    hybrid = HybridClassifier(tiny_host, tokens, weight=0.5)
    plain, features = cache.features[:, 0], F.normalize(tiny_host.clip.image_features(images), dim=-1)
    means = torch.stack([F.normalize(plain[cache.labels == c].mean(0), dim=0) for c in range(3)])
    expected = classifiers["clip"].scores(images).logits + 0.5 * 10 * features @ means.T
    assert torch.allclose(hybrid.scores(images).logits, expected, atol=1e-5)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_left_out_logits_by_brute_force(tiny_host, tokens, weight):
    generator = torch.Generator().manual_seed(6)
    features = F.normalize(torch.randn(6, 16, generator=generator), dim=-1)
    labels = torch.tensor([0, 0, 0, 1, 2, 2])  # class 1 has only one
    learned = replace(tokens, support=Support(features, labels))
    hybrid, clip = HybridClassifier(tiny_host, learned, weight=weight), ClipClassifier(tiny_host, learned)
    for i in range(6):
        token = clip.logits(features[i : i + 1])[0]
        rest = [j for j in range(6) if j != i]
        if all(labels[j] != labels[i] for j in rest):
            expected = token * (1 + weight)
        else:
            groups = [[j for j in rest if labels[j] == c] for c in range(3)]
            means = torch.stack([F.normalize(features[group].mean(0), dim=0) for group in groups])
            expected = token + weight * 10 * means @ features[i]
        assert torch.allclose(hybrid.left_out_logits()[i], expected, atol=1e-5)


def _with_support(tokens, labels, seed=6):
    """Tokens with random examples around a centre of each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(labels)
    centres = torch.randn(len(tokens), 16, generator=generator)
    features = F.normalize(centres[labels] + torch.randn(len(labels), 16, generator=generator), dim=-1)
    return replace(tokens, support=Support(features, labels))


def test_hybrid_auto_is_the_weighted_sum_of_its_parts(tiny_host, tokens):
    learned = _with_support(tokens, [0, 0, 0, 1, 1, 2, 2])
    hybrid, clip = HybridClassifier(tiny_host, learned, weight="auto"), ClipClassifier(tiny_host, learned)
    features, labels = learned.support.features, learned.support.labels
    query = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    unit = F.normalize(query, dim=-1)
    parts = [clip.logits(query), 10 * unit @ hybrid.means.T, LogisticRegression(features, labels, 3).logits(unit)]
    expected = sum(weight * part for weight, part in zip(hybrid.weights.tolist(), parts, strict=True))
    assert (hybrid.weights > 0).all()
    torch.testing.assert_close(hybrid.logits(query), expected)


def test_hybrid_auto_judges_examples_by_parts_that_have_not_seen_them(tiny_host, tokens):
    learned = _with_support(tokens, [0, 0, 1, 1, 2])
    hybrid, clip = HybridClassifier(tiny_host, learned, weight="auto"), ClipClassifier(tiny_host, learned)
    features, labels = learned.support.features, learned.support.labels
    token, (a, b, c) = clip.logits(features), hybrid.weights.tolist()
    for i in range(4):
        keep = torch.tensor([j for j in range(5) if j == 4 or j % 2 != i % 2])
        probe = LogisticRegression(features[keep], labels[keep], 3).logits(features[i : i + 1])[0]
        own = [j for j in range(5) if labels[j] == labels[i] and j != i]
        means = hybrid.means.clone()
        means[labels[i]] = features[own[0]]
        expected = a * token[i] + b * 10 * means @ features[i] + c * probe
        torch.testing.assert_close(hybrid.left_out_logits()[i], expected)
    torch.testing.assert_close(hybrid.left_out_logits()[4], (a + b + c) * token[4])  # its class's only one
    assert calibrate(hybrid, learned).num_samples == 4


def test_hybrid_auto_with_one_example_a_class_takes_the_first_weights(tiny_host, tokens):
    learned = _with_support(tokens, [0, 1, 2])
    hybrid = HybridClassifier(tiny_host, learned, weight="auto")
    assert hybrid.weights.tolist() == [1.0, 0.25, 2.0]
    calibrate(hybrid, learned)
    assert (hybrid.temperature, hybrid.threshold) == (3.25, 0.0)


def test_hybrid_auto_has_no_probe_where_a_class_has_no_example(tiny_host, tokens, caplog):
    caplog.set_level(logging.INFO)
    learned = _with_support(tokens, [0, 0, 1, 1])
    query = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    auto, usual = (HybridClassifier(tiny_host, learned, weight=weight) for weight in ("auto", 1.0))
    assert torch.equal(auto.logits(query), usual.logits(query))
    assert "no logistic probe, since a class has no example" in caplog.text


def test_hybrid_refuses_another_word_as_weight_and_tokens_without_examples(tiny_host, tokens):
    with pytest.raises(ConfigError, match="a number or 'auto', got 'much'"):
        HybridClassifier(tiny_host, _with_support(tokens, [0, 1, 2]), weight="much")
    with pytest.raises(TokenError, match=r"no features of their examples.*'clip'"):
        HybridClassifier(tiny_host, replace(tokens, support=None))
