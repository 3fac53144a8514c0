"""The usual recipe follows its description and learns; otherwise a comparison of speed would mean nothing."""

from dataclasses import replace
from statistics import mean

import pytest
import torch
from torch.nn import Parameter

from benchmarks.plain_recipe import PlainRecipe, PlainSettings
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.hosts.diffusers.host import load_host
from mcti_core.prompts.splicing import encode_prompts, template_prompts
from mcti_core.training.config import TrainConfig
from mcti_core.training.objective import ClassPrompts, batch_classification_loss, reconstruction_loss

SETTINGS = PlainSettings(steps=3, hflip=False, templates=("a cropped photo of the {}",))


@pytest.fixture
def recipe(tiny_model):
    """Each test its own: a recipe's token table changes."""
    return PlainRecipe(tiny_model)


def test_only_the_placeholder_is_learned(recipe, dataset):
    before = {name: weight.clone() for name, weight in recipe.tower.state_dict().items()}
    others = [
        {n: w.clone() for n, w in module.state_dict().items()} for module in (recipe.unet, recipe.vae, recipe.clip)
    ]
    run = recipe.train_class(recipe.examples(dataset, False), 1, SETTINGS)
    for name, weight in recipe.tower.state_dict().items():
        if weight.shape == recipe.table.shape:
            assert torch.equal(weight[:-1], before[name][:-1])
            assert not torch.equal(weight[-1], before[name][-1])
            assert torch.equal(weight[-1:], run.vector)
        else:
            assert torch.equal(weight, before[name])
    for module, weights in zip((recipe.unet, recipe.vae, recipe.clip), others, strict=True):
        assert all(torch.equal(weight, weights[name]) for name, weight in module.state_dict().items())


def test_it_starts_from_the_word(recipe, dataset):
    recipe.begin("person")
    (known,) = recipe.tokenizer("person", add_special_tokens=False)["input_ids"]
    assert torch.equal(recipe.vector()[0], recipe.table[known].detach())


def test_it_steps_once_every_four_images(recipe, dataset, monkeypatch):
    steps, vectors, updates = [], [], []
    update = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: (updates.append(1), update(self)))
    run = recipe.train_class(
        recipe.examples(dataset, False), 0, SETTINGS, lambda step, vector: (steps.append(step), vectors.append(vector))
    )
    assert steps == [1, 2, 3]
    assert len(updates) == 3
    assert len(run.losses) == 12
    assert torch.equal(vectors[-1], run.vector)
    assert not torch.equal(vectors[0], vectors[1])


def test_the_loss_falls(recipe, dataset):
    """On fixed draws, so that luck plays no part."""
    examples, settings = recipe.examples(dataset, False), replace(SETTINGS, steps=15, lr=5e-2)
    generator = torch.Generator().manual_seed(5)
    draws = [recipe.draw(examples, 0, settings, generator) for _ in range(16)]

    @torch.no_grad()
    def now():
        pairs = [recipe.losses(recipe.latents(d.pixels), 0, d, settings.logit_scale) for d in draws]
        return mean(float(noise + classes) for noise, classes in pairs)

    recipe.begin(settings.word)
    before = now()
    recipe.train_class(examples, 0, settings)
    assert now() < before - 0.05


@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_its_loss_is_ours_of_the_same_draws(recipe, tiny_model, dataset, label, seed):
    """Both terms, and the gradient on the placeholder."""
    examples = recipe.examples(dataset, False)
    draws = recipe.draw(examples, label, SETTINGS, torch.Generator().manual_seed(seed))
    recipe.begin(SETTINGS.word)
    vector = Parameter(recipe.vector().clone()[None])  # (1, 1, d)
    theirs = recipe.losses(recipe.latents(draws.pixels), label, draws, SETTINGS.logit_scale)
    gradient = torch.autograd.grad(sum(theirs), recipe.table)[0][-1]

    host = load_host(tiny_model, tiny_model / "clip")
    config = TrainConfig(direction="text_to_image", logit_scale=SETTINGS.logit_scale, pooling="token")
    cache = replace(FeatureCache.build(host, dataset, hflip=False), features=draws.images[:, None])
    cache = replace(
        cache, labels=torch.arange(3), latents=host.codec.encode((draws.pixels + 1) / 2)[None].expand(3, -1, -1, -1, -1)
    )
    layout = {"clip_l": template_prompts(host.text["clip_l"], SETTINGS.templates, 1)}
    with host.session("text", "denoiser", gradients=True):
        text = encode_prompts(host, layout, {"clip_l": vector})
        pooled = text["clip_l"].hidden[torch.arange(1), layout["clip_l"].pooling_position("token")]
        prompts = ClassPrompts(torch.tensor([label]), pooled, torch.tensor([label]), text)
        context = prompts.conditioning_of(torch.tensor([label]))
        fixed = replace(host, denoiser=_Told(host.denoiser, draws))
        ours = (
            reconstruction_loss(fixed, cache, torch.tensor([label]), context, torch.Generator()).mean(),
            batch_classification_loss(host, cache, prompts, config, torch.Generator()).mean(),
        )
        own = torch.autograd.grad(sum(ours), vector)[0].view(-1)
    assert [x.item() for x in ours] == pytest.approx([x.item() for x in theirs], rel=1e-4, abs=1e-5)
    assert gradient.norm() > 1e-3
    assert torch.allclose(own, gradient, rtol=1e-4, atol=1e-4 * float(gradient.norm()))


class _Told:
    """A denoiser with the noise level and the noise of some draws, whatever it is given."""

    def __init__(self, inner, draws):
        self.inner, self.sigmas, self.weight = inner, inner.sigmas[draws.step].expand(1), inner.weight
        self.noise = draws.noise

    def noised(self, latents, noise, sigma):
        return self.inner.noised(latents, self.noise, sigma)

    def denoise(self, noised, sigma, text):
        return self.inner.denoise(noised, sigma, text)
