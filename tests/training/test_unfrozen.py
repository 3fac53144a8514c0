"""A host on models whose weights still require gradients."""

from dataclasses import replace

import pytest
import torch

from mcti_core.data.feature_cache import FeatureCache
from mcti_core.hosts.base import Host
from mcti_core.hosts.diffusers.clip_space import load_clip_space
from mcti_core.hosts.diffusers.host import ClipTextEncoder, UNetDenoiser, VaeCodec
from mcti_core.hosts.diffusers.loading import load_parts
from mcti_core.training.config import TrainConfig
from mcti_core.training.loop import train
from mcti_core.training.per_class import train_per_class

CONFIG = TrainConfig(steps=2, batch_size=4, templates=("a photo of a {}",))


@pytest.fixture(scope="module")
def unfrozen(tiny_model):
    """The tiny host without a session of its own, as a program might build it; and its modules."""
    parts = load_parts(tiny_model, None, torch.float32)
    encoder = ClipTextEncoder(*parts.text["clip_l"])
    space = load_clip_space(tiny_model / "clip", {"clip_l": encoder.width})
    host = Host(
        {"clip_l": encoder}, UNetDenoiser(parts.unet, parts.scheduler), VaeCodec(parts.vae), space, image_size=32
    )
    modules = [*parts.modules, space.module]
    for module in modules:
        module.eval().requires_grad_(True)
    return host, modules


def _untouched(modules):
    weights = [weight for module in modules for weight in module.parameters()]
    assert all(weight.requires_grad for weight in weights)
    return [weight for weight in weights if weight.grad is not None] == []


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"gamma": 0.0}, {"gamma": "auto"}, {"micro_batch_size": 2}, {"gradient_checkpointing": True},
        {"micro_batch_size": 1, "gradient_checkpointing": True}, {"classification_only_steps": 1}, {"reconstruction_weight": 0.0, "gamma": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_training_on_an_unfrozen_model_gives_no_weight_a_gradient(unfrozen, tiny_host, dataset, tokens, settings):
    host, modules = unfrozen
    config = replace(CONFIG, **settings)
    cache = FeatureCache.build(host, dataset)
    learned = train(host, cache, tokens, config).tokens
    assert _untouched(modules)
    frozen = train(tiny_host, FeatureCache.build(tiny_host, dataset), tokens, config).tokens
    assert torch.allclose(learned.vectors["clip_l"], frozen.vectors["clip_l"], atol=1e-5)


def test_training_one_by_one_on_an_unfrozen_model_gives_no_weight_a_gradient(unfrozen, dataset, tokens):
    host, modules = unfrozen
    train_per_class(host, FeatureCache.build(host, dataset), tokens, replace(CONFIG, direction="text_to_image"))
    assert _untouched(modules)
