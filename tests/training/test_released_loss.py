"""One step of the released procedure, written out in plain torch, transformers and diffusers, against ours.

Released: one class a run. Its placeholder is added to tokenizer and token table; the prompt's text feature is pooled at
the highest id, which is the placeholder's; logits are 10 times the cosines with one image feature of every class; and
the noise error is DDPM's, of x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.prompts.splicing import encode_prompts, template_prompts
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.config import TrainConfig
from mcti_core.training.loop import train
from mcti_core.training.objective import ClassPrompts, batch_classification_loss, reconstruction_loss

TEMPLATE = "a cropped photo of the {} on paper"


@dataclass
class Draws:
    """What is random in a step."""

    latents: torch.Tensor
    """(1, 4, h, w)."""
    step: torch.Tensor
    """(1,) int64 time step."""
    noise: torch.Tensor
    images: torch.Tensor
    """(C, p) one image feature of every class."""


class Released:
    """The released step's models, loaded apart from any host."""

    def __init__(self, folder):
        from diffusers import DDPMScheduler, UNet2DConditionModel
        from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.tower = CLIPTextModel.from_pretrained(folder / "text_encoder").eval().requires_grad_(False)
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval().requires_grad_(False)
        self.scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
        self.projection = CLIPModel.from_pretrained(folder / "clip").text_projection.weight.detach()
        self.tokenizer.add_tokens("<it>")
        self.tower.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.tower.eos_token_id = 2  # as SD 1.x's config has it: the tower pools at the highest id

    def losses(self, vector, label, draws):
        """L_ldm, L_cls and the gradient of each on the placeholder's embedding (d,)."""
        table = self.tower.get_input_embeddings().weight.requires_grad_(True)
        with torch.no_grad():
            table[-1] = vector
        ids = self.tokenizer(
            TEMPLATE.format("<it>"), padding="max_length", max_length=77, return_tensors="pt"
        )["input_ids"]  # fmt: skip
        output = self.tower(input_ids=ids)
        hidden = output.last_hidden_state

        alpha_bar = self.scheduler.alphas_cumprod[draws.step].view(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * draws.latents + (1 - alpha_bar).sqrt() * draws.noise
        assert torch.allclose(noisy, self.scheduler.add_noise(draws.latents, draws.noise, draws.step), atol=1e-6)
        predicted = self.unet(noisy, draws.step, encoder_hidden_states=hidden).sample
        noise_loss = ((predicted - draws.noise) ** 2).mean()

        place = ids[0].tolist().index(len(self.tokenizer) - 1)  # of the placeholder
        assert torch.equal(output.pooler_output[0], hidden[0, place])
        text = self.projection @ output.pooler_output[0]  # (p,)
        text, images = text / text.norm(), draws.images / draws.images.norm(dim=1, keepdim=True)
        class_loss = -(10 * images @ text).log_softmax(0)[label]

        gradients = [torch.autograd.grad(loss, table, retain_graph=True)[0][-1] for loss in (noise_loss, class_loss)]
        return noise_loss.item(), class_loss.item(), *gradients


@pytest.fixture(scope="module")
def released(tiny_model):
    return Released(tiny_model)


def _drawn(cache, image, seed):
    """The draws of one step, in the order in which training makes them."""
    generator = torch.Generator().manual_seed(seed)
    views = cache.latents.shape[1]
    view = torch.randint(0, views, (1,), generator=generator)
    step = torch.randint(0, 1000, (1,), generator=generator)
    noise = torch.randn(1, *cache.latents.shape[2:], generator=generator)
    chosen = []
    for label in range(len(cache.classes)):
        members = [i for i, own in enumerate(cache.labels.tolist()) if own == label]
        chosen.append(members[int(torch.randint(0, len(members), (), generator=generator))])
    mirrored = torch.randint(0, views, (len(chosen),), generator=generator)
    return Draws(cache.latents[image, view], step, noise, cache.features[chosen, mirrored])


@pytest.mark.parametrize("image", [0, 3, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_same_losses_and_same_gradient(released, tiny_host, cache, image, seed):
    label = int(cache.labels[image])
    start = torch.randn(tiny_host.text["clip_l"].width, generator=torch.Generator().manual_seed(100 + seed))
    noise_loss, class_loss, *gradients = released.losses(start, label, _drawn(cache, image, seed))

    vector = Parameter(start.view(1, 1, -1))
    generator = torch.Generator().manual_seed(seed)
    config = TrainConfig(direction="text_to_image", logit_scale=10.0, pooling="token")
    with tiny_host.session():
        layout = template_prompts(tiny_host.text["clip_l"], [TEMPLATE], 1)
        text = encode_prompts(tiny_host, {"clip_l": layout}, {"clip_l": vector})
        pooled = text["clip_l"].hidden[0, layout.pooling_position("token")]
        prompts = ClassPrompts(torch.tensor([label]), pooled, torch.tensor([label]), text)
        context = prompts.conditioning_of(torch.tensor([label]))
        ours_noise = reconstruction_loss(tiny_host, cache, torch.tensor([image]), context, generator)
        ours_class = batch_classification_loss(tiny_host, cache, prompts, config, generator)
        ours = [torch.autograd.grad(loss.mean(), vector, retain_graph=True)[0] for loss in (ours_noise, ours_class)]

    assert ours_noise.item() == pytest.approx(noise_loss, rel=1e-5, abs=1e-5)
    assert ours_class.item() == pytest.approx(class_loss, rel=1e-5, abs=1e-5)
    for mine, theirs in zip(ours, gradients, strict=True):
        assert theirs.norm() > 1e-3  # there is something to compare
        assert torch.allclose(mine.view(-1), theirs, rtol=1e-5, atol=1e-5 * float(theirs.norm()))


@dataclass
class Recorder:
    """A denoiser that passes everything on and remembers what was noised."""

    inner: Any
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

    @property
    def sigmas(self):
        return self.inner.sigmas

    def noised(self, latents, noise, sigma):
        self.seen.append((latents, noise, sigma))
        return self.inner.noised(latents, noise, sigma)

    def denoise(self, noised, sigma, text):
        return self.inner.denoise(noised, sigma, text)

    def weight(self, sigma):
        return self.inner.weight(sigma)


@pytest.mark.parametrize("label", [0, 2])
def test_a_whole_training_step_is_the_released_one(released, tiny_host, label):
    """Loss and AdamW step of ``train`` on one class; with one image a class, only time step and noise are drawn."""
    generator = torch.Generator().manual_seed(7)
    data = FewShotDataset.from_images({name: [torch.rand(3, 32, 32, generator=generator)] for name in "abc"})
    cache = FeatureCache.build(tiny_host, data, hflip=False)
    start = torch.randn(3, 1, tiny_host.text["clip_l"].width, generator=generator)
    recorder = Recorder(tiny_host.denoiser, [])
    config = TrainConfig(
        steps=1, batch_size=1, lr=2e-3, lr_schedule="constant", lr_warmup_steps=0, weight_decay=1e-2, gamma=1.0,
        direction="text_to_image", logit_scale=10.0, pooling="token", templates=(TEMPLATE,),
    )  # fmt: skip
    result = train(
        replace(tiny_host, denoiser=recorder),
        cache,
        TokenSet(("a", "b", "c"), {"clip_l": start}),
        config,
        classes=[label],
    )

    ((latents, noise, sigma),) = recorder.seen
    step = (tiny_host.denoiser.sigmas == sigma).nonzero()[0]
    assert torch.equal(latents, cache.latents[[label], 0])
    draws = Draws(latents, step, noise, cache.features[:, 0])
    noise_loss, class_loss, *gradients = released.losses(start[label, 0], label, draws)
    assert result.history["reconstruction"] == pytest.approx([noise_loss], rel=1e-5)
    assert result.history["classification"] == pytest.approx([class_loss], rel=1e-5)
    assert result.history["loss"] == pytest.approx([noise_loss + class_loss], rel=1e-5)

    vector = Parameter(start[label, 0].clone())
    vector.grad = gradient = sum(gradients)
    torch.optim.AdamW([vector], lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2).step()
    clear = gradient.abs() > 1e-5  # AdamW's first step is a sign: of less it would be one of rounding
    assert clear.sum() > 16
    learned = result.tokens.vectors["clip_l"]
    assert torch.allclose(learned[label, 0][clear], vector.detach()[clear], atol=1e-5)
    others = [index for index in range(3) if index != label]
    assert torch.equal(learned[others], start[others])
