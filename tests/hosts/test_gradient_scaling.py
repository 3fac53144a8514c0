"""Gradients in half precision equal those in full precision up to rounding."""

from dataclasses import replace

import pytest
import torch

from mcti_core.data.feature_cache import FeatureCache
from mcti_core.hosts.gradient_scaling import scale_gradients
from mcti_core.pocket import load_pocket
from mcti_core.prompts.splicing import template_prompts
from mcti_core.training.objective import encode_classes, reconstruction_loss


def _gradient(host, labels, latents):
    """Of the reconstruction loss, with respect to two classes' vectors."""
    generator = torch.Generator().manual_seed(0)
    vectors = {"clip_l": torch.randn(2, 1, 96, generator=generator).mul_(0.1).requires_grad_()}
    templates = {"clip_l": template_prompts(host.text["clip_l"], ("a drawing of a {}",), 1)}
    prompts = encode_classes(
        host, templates, vectors, torch.arange(2), torch.arange(2), torch.arange(2), "eot", generator
    )
    cache = FeatureCache(("a", "b"), labels, latents, None, "")
    loss = reconstruction_loss(
        host, cache, torch.arange(len(labels)), prompts.conditioning_of(labels), generator
    ).mean()
    loss.backward()
    return vectors["clip_l"].grad


@pytest.mark.parametrize(("dtype", "most"), [("fp16", 0.01), ("bf16", 0.1)])
def test_gradients_of_a_large_batch_do_not_vanish(dtype, most):
    labels = torch.tensor([0, 1, 0, 1])
    latents = torch.randn(4, 1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    full = _gradient(load_pocket(), labels, latents)
    half = _gradient(load_pocket(dtype=dtype), labels, latents)
    assert (half - full).norm() / full.norm() < most


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_numbers_and_gradients_are_the_true_ones_outside(dtype, tiny_host):
    prompts = template_prompts(tiny_host.text["clip_l"], ("a photo of a {}",), 1)
    embeds = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(2))
    features = tiny_host.text["clip_l"].encode(prompts.ids, embeds)
    features = replace(
        features, context=features.context.detach().requires_grad_(), pooled=torch.ones(1, 4).requires_grad_()
    )
    inner, enlarged = scale_gradients({"clip_l": features}, dtype)
    assert torch.equal(inner["clip_l"].context, features.context)
    output = enlarged(inner["clip_l"].context.sum() * 3 + inner["clip_l"].pooled.sum() * 5)
    seen = []
    inner["clip_l"].context.register_hook(seen.append)
    output.backward()
    assert torch.equal(features.context.grad, torch.full_like(features.context, 3))
    assert torch.equal(features.pooled.grad, torch.full_like(features.pooled, 5))
    assert (seen[0] > 3).all() == (dtype == torch.float16)
