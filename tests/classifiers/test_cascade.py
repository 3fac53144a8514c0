import math
from dataclasses import replace

import pytest
import torch

from mcti_core.classifiers.cascade import CascadeClassifier
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier


class Forbidden:
    """A denoiser that must not be called."""

    def __init__(self, denoiser):
        self.sigmas, self.noised, self.weight = denoiser.sigmas, denoiser.noised, denoiser.weight

    def denoise(self, noised, sigma, text):
        raise AssertionError("the denoiser was called")


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.3), (4.0, 2.0)])
def test_cascade_adds_both_and_believes_the_first_as_far_as_it_is_calibrated(classifiers, images, temperature, weight):
    first, second = classifiers["clip"], classifiers["diffusion"]
    first.temperature = temperature
    scores = CascadeClassifier(first, second, margin=math.inf, weight=weight).scores(images)
    slow = second.scores(images)
    expected = (first.scores(images).logits / temperature + weight * slow.logits).softmax(1)
    assert torch.allclose(scores.logits.softmax(1), expected, atol=1e-4)
    assert torch.equal(scores.evaluations, slow.evaluations)


@pytest.mark.parametrize("options", [{"shortlist": 1}, {"margin": 0.0}])
def test_cascade_that_hands_nothing_on_is_clip(tiny_host, tokens, classifiers, images, options):
    slow = DiffusionClassifier(replace(tiny_host, denoiser=Forbidden(tiny_host.denoiser)), tokens)
    scores = CascadeClassifier(classifiers["clip"], slow, **options).scores(images)
    assert torch.equal(scores.logits, classifiers["clip"].scores(images).logits)
    assert scores.evaluations.tolist() == [0] * len(images)


def test_cascade_hands_on_what_is_in_doubt(classifiers, images):
    fast = classifiers["clip"].scores(images).logits
    best = fast.topk(2).values
    lead = best[:, 0] - best[:, 1]
    margin = float(lead.median()) + 1e-4
    scores = CascadeClassifier(classifiers["clip"], classifiers["diffusion"], shortlist=2, margin=margin).scores(images)
    doubtful = lead < margin
    assert 0 < int(doubtful.sum()) < len(images)
    assert torch.equal(scores.evaluations > 0, doubtful)
    assert torch.equal(scores.logits[~doubtful], fast[~doubtful])


def test_cascade_keeps_its_answer_on_the_shortlist(classifiers, images):
    fast = classifiers["clip"].scores(images).logits
    options = {"shortlist": 2, "margin": math.inf, "weight": 100.0}
    scores = CascadeClassifier(classifiers["clip"], classifiers["diffusion"], **options).scores(images)
    listed = torch.zeros_like(fast, dtype=torch.bool).scatter_(1, fast.topk(2).indices, True)
    expected = classifiers["diffusion"].scores(images, listed).logits.masked_fill(~listed, -torch.inf).argmax(1)
    assert torch.equal(scores.logits.argmax(1), expected)
    assert not torch.equal(expected, fast.argmax(1))  # with so much weight it does overrule CLIP
    inside, outside = scores.logits.masked_fill(~listed, torch.inf), scores.logits.masked_fill(listed, -torch.inf)
    assert (inside.amin(1) >= outside.amax(1)).all()
    assert (scores.evaluations <= 2 * 6).all()


def test_cascade_of_a_single_class(tiny_host, tokens, images):
    one = tokens.select([1])
    cascade = CascadeClassifier(ClipClassifier(tiny_host, one), DiffusionClassifier(tiny_host, one))
    assert cascade.scores(images).logits.shape == (len(images), 1)
