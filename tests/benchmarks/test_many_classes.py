"""Cost of 500 classes, counted: nothing grows with the classes that need not."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.data.samplers import ClassBalancedBatchSampler
from mcti_core.prompts.splicing import template_prompts
from mcti_core.sampling import generate
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.config import TrainConfig
from mcti_core.training.early_stopping import ValidationLoss
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import train

CLASSES = 500
LABELS = tuple(f"thing {number}" for number in range(CLASSES))


@dataclass
class Counting:
    """A part of a host that notes how many rows came in at each call."""

    inner: Any
    rows: dict[str, list[int]] = field(default_factory=dict)

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name not in ("encode", "embed", "denoise"):
            return found

        def counted(first, *rest):
            self.rows.setdefault(name, []).append(first.numel() if name == "embed" else len(first))
            return found(first, *rest)

        return counted


@pytest.fixture
def counted(tiny_host):
    parts = {name: Counting(getattr(tiny_host, name)) for name in ("denoiser", "codec")}
    return replace(tiny_host, text={"clip_l": Counting(tiny_host.text["clip_l"])}, **parts)


@pytest.fixture(scope="module")
def examples():
    """One image of each of 500 classes, as random latents and features."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(CLASSES, 1, 4, 8, 8, generator=generator)
    features = torch.nn.functional.normalize(torch.randn(CLASSES, 1, 16, generator=generator), dim=-1)
    return FeatureCache(LABELS, torch.arange(CLASSES), latents, features, "random")


@pytest.fixture(scope="module")
def tokens():
    return TokenSet(LABELS, {"clip_l": torch.randn(CLASSES, 1, 32, generator=torch.Generator().manual_seed(1))})


def test_new_tokens_from_a_word_look_up_the_word_alone(counted):
    word = counted.text["clip_l"].tokenize("cat")
    assert len(new_tokens(counted, LABELS, initializer_token="cat")) == CLASSES
    assert counted.text["clip_l"].rows["embed"] == [len(word)]


@pytest.mark.parametrize("samples", [8, 32])
def test_a_look_at_the_probe_encodes_no_more_prompts_than_it_has_images(counted, examples, tokens, samples):
    prompts = {"clip_l": template_prompts(counted.text["clip_l"], ("a photo of a {}",), 1)}
    probe = ValidationLoss(counted, examples, torch.arange(CLASSES), prompts, num_samples=samples)
    error = probe.error(tokens.vectors)
    assert counted.text["clip_l"].rows["encode"] == [samples]
    assert error == pytest.approx(_plain_error(counted, examples, tokens, prompts, samples), rel=1e-4)


def _plain_error(host, examples, tokens, prompts, samples):
    """The same probe over the classes of its images alone."""
    images = next(ClassBalancedBatchSampler(examples.labels, range(CLASSES), samples, torch.Generator().manual_seed(0)))
    few = torch.sort(examples.labels[images]).values
    probe = ValidationLoss(host, examples, torch.arange(CLASSES), prompts, num_samples=samples)
    probe.classes, wanted = torch.arange(samples), probe.classes
    assert torch.equal(wanted, few)
    return probe.error({"clip_l": tokens.vectors["clip_l"][few]})


def test_a_training_step_encodes_no_more_classes_than_it_may(counted, examples, tokens):
    config = TrainConfig(steps=3, batch_size=4, max_classes_per_step=16, templates=("a photo of a {}",), eval_steps=1)
    train(counted, examples, tokens, config)
    rows = counted.text["clip_l"].rows["encode"]
    assert max(rows) <= 32  # the probe's images
    assert sum(rows) <= 3 * 16 + 2 * 32


def test_contexts_of_a_diffusion_classifier_are_encoded_in_parts(counted, tokens, tiny_host):
    classifier = DiffusionClassifier(counted, tokens, num_trials=2)
    rows = counted.text["clip_l"].rows["encode"]
    assert max(rows) <= 64
    assert sum(rows) == CLASSES
    few = DiffusionClassifier(tiny_host, tokens.select([3, 70, 499]), num_trials=2)
    for name, features in few.conditioning.items():
        assert torch.allclose(features.context, classifier.conditioning[name].context[[3, 70, 499]], atol=1e-5)


def test_a_diffusion_classifier_of_many_classes_never_evaluates_more_at_once_than_asked(counted, tokens):
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scores = DiffusionClassifier(counted, tokens, num_trials=1, batch_size=96).scores(images)
    assert max(counted.denoiser.rows["denoise"]) <= 96
    assert scores.logits.shape == (1, CLASSES)


def test_generate_sends_nothing_through_the_vae_but_what_it_draws(counted, tokens):
    generate(counted, ["a photo of a {thing-7}"], tokens, num_inference_steps=1, size=32)
    assert counted.codec.rows.get("encode", []) == []
