"""Laws that all classifiers share."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.errors import HostError

SHORT = {"num_trials": 6, "alpha": 0.3}
"""A small budget for the diffusion classifier."""


def remade(classifier, host, tokens):
    return type(classifier)(host, tokens, **(SHORT if isinstance(classifier, DiffusionClassifier) else {}))


@pytest.mark.parametrize("name", ["clip", "hybrid", "diffusion"])
def test_permuting_classes_permutes_logits(tiny_host, tokens, images, classifiers, name):
    order = [2, 0, 1]
    plain = classifiers[name].scores(images)
    permuted = remade(classifiers[name], tiny_host, tokens.select(order)).scores(images)
    assert torch.allclose(permuted.logits, plain.logits[:, order], atol=1e-4)
    assert torch.equal(permuted.evaluations, plain.evaluations)
    assert plain.logits.std(1).min() > 1e-3  # classes do differ


@pytest.mark.parametrize("name", ["clip", "hybrid", "diffusion"])
def test_an_image_scores_the_same_in_any_batch(images, classifiers, name):
    twice = torch.cat([images, images[:1]])
    scores = classifiers[name].scores(twice)
    assert torch.allclose(scores.logits[0], scores.logits[-1], atol=1e-4)
    alone = [classifiers[name].scores(image[None]) for image in twice]
    assert torch.allclose(torch.cat([each.logits for each in alone]), scores.logits, atol=1e-4)
    assert torch.equal(torch.cat([each.evaluations for each in alone]), scores.evaluations)


@pytest.mark.parametrize(
    ("kind", "without", "message"),
    [
        (ClipClassifier, {"clip": None}, "CLIP space"), (DiffusionClassifier, {"denoiser": None}, "no diffusion model"),
        (DiffusionClassifier, {"codec": None}, "no VAE"),
    ],
)  # fmt: skip
def test_classifiers_need_their_parts_of_the_host(tiny_host, tokens, kind, without, message):
    with pytest.raises(HostError, match=message):
        kind(replace(tiny_host, **without), tokens)


def test_classifying_leaves_the_model_alone(tiny_host, classifiers, images):
    modules = [tiny_host.text["clip_l"].tower, tiny_host.denoiser.unet, tiny_host.codec.vae, tiny_host.clip.module]
    before = [deepcopy(module.state_dict()) for module in modules]
    for classifier in classifiers.values():
        classifier.scores(images[:1])
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(v, state[name]) for name, v in module.state_dict().items())
