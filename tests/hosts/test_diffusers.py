import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mcti_core.errors import HostError
from mcti_core.hosts.diffusers.clip_space import load_clip_space
from mcti_core.hosts.diffusers.host import UNetDenoiser, load_host
from mcti_core.losses import noise_error
from mcti_core.prompts.splicing import encode_prompts, host_prompts
from mcti_core.training.loop import TrainConfig, train

SHORT = TrainConfig(steps=2, batch_size=3, lr=0.01, lr_warmup_steps=0, templates=("a photo of a {}",))


def prompt(host, text="a photo of a dog"):
    prompts = host_prompts(host, [text], (), 1)
    return prompts, encode_prompts(host, prompts, {name: torch.zeros(1, 1, e.width) for name, e in host.text.items()})


def estimated(denoiser, host, latents, noise, sigma):
    """The denoiser's estimate with the prompt for every sample, and the prompt's context."""
    _, text = prompt(host)
    rows = text["clip_l"].rows(torch.zeros(len(latents), dtype=torch.long))
    return denoiser.denoise(denoiser.noised(latents, noise, sigma), sigma, {"clip_l": rows}), rows.context


def scheduler_of(prediction, **options):
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction, clip_sample=False,
        **options,
    )  # fmt: skip


@pytest.fixture
def noisy():
    """Latents, noise and time steps of three samples."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    return latents, noise, torch.tensor([20, 500, 990])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_estimates_are_those_of_diffusers(tiny_host, noisy, prediction):
    """Through sigmas as through alphas: the same UNet call, and the same clean latent of its answer."""
    latents, noise, steps = noisy
    scheduler = scheduler_of(prediction)
    denoiser = UNetDenoiser(tiny_host.denoiser.unet, scheduler)
    sigma = denoiser.sigmas[steps]
    estimate, context = estimated(denoiser, tiny_host, latents, noise, sigma)
    for i, step in enumerate(steps):
        sample = scheduler.add_noise(latents[i : i + 1], noise[i : i + 1], step[None])
        with torch.no_grad():
            output = denoiser.unet(sample, step, encoder_hidden_states=context[:1]).sample
        expected = scheduler.step(output, int(step), sample).pred_original_sample
        assert torch.allclose(estimate[i : i + 1], expected, rtol=1e-3, atol=1e-3 * float(sigma[i]))
        if prediction == "epsilon":
            recovered = (latents + noise * sigma.view(-1, 1, 1, 1) - estimate)[i] / sigma[i]
            assert torch.allclose(recovered, output[0], atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_weight_gives_the_familys_own_loss(tiny_host, noisy, prediction):
    """Where the model predicts v, the squared error of v is (sigma^2 + 1) times that of the noise."""
    latents, noise, steps = noisy
    scheduler = scheduler_of(prediction)
    denoiser = UNetDenoiser(tiny_host.denoiser.unet, scheduler)
    sigma = denoiser.sigmas[steps]
    estimate, context = estimated(denoiser, tiny_host, latents, noise, sigma)
    loss = denoiser.weight(sigma) * noise_error(latents, estimate, sigma)
    with torch.no_grad():
        sample = scheduler.add_noise(latents, noise, steps)
        output = denoiser.unet(sample, steps, encoder_hidden_states=context).sample
    target = noise if prediction == "epsilon" else scheduler.get_velocity(latents, noise, steps)
    assert torch.allclose(loss, (output - target).square().mean((1, 2, 3)), rtol=1e-3)


def test_sigmas_are_those_of_the_schedule(tiny_host):
    alpha_bar = scheduler_of("epsilon").alphas_cumprod
    sigmas = tiny_host.denoiser.sigmas
    assert torch.allclose(sigmas, ((1 - alpha_bar) / alpha_bar).sqrt(), rtol=1e-4)
    assert (sigmas.diff() > 0).all()
    assert float(sigmas[-1]) == pytest.approx(14.6, abs=0.1)  # of Stable Diffusion 1.x


def test_a_schedule_that_ends_in_pure_noise_stays_finite(tiny_host, noisy):
    latents, noise, _ = noisy
    scheduler = scheduler_of("v_prediction", rescale_betas_zero_snr=True)
    assert float(scheduler.alphas_cumprod[-1]) < 1e-12
    denoiser = UNetDenoiser(tiny_host.denoiser.unet, scheduler)
    assert denoiser.sigmas.isfinite().all()
    sigma = denoiser.sigmas[[-1, -1, -1]]
    estimate, _ = estimated(denoiser, tiny_host, latents, noise, sigma)
    loss = denoiser.weight(sigma) * noise_error(latents, estimate, sigma)
    assert loss.isfinite().all()
    assert loss.max() < 100


def test_unknown_prediction_types_are_refused(tiny_host):
    with pytest.raises(HostError, match="'sample'; only epsilon and v_prediction"):
        UNetDenoiser(tiny_host.denoiser.unet, scheduler_of("sample"))


def test_nothing_that_is_done_often_looks_through_all_modules(tiny_host, noisy, monkeypatch):
    """As ``unet.dtype`` does, which takes milliseconds where there are thousands."""
    walked, plain = [], torch.nn.Module.named_modules

    def noting(module, *args, **options):
        walked.append(type(module).__name__)
        return plain(module, *args, **options)

    latents, noise, steps = noisy
    sigma, images = tiny_host.denoiser.sigmas[steps], torch.zeros(1, 3, 32, 32)
    monkeypatch.setattr(torch.nn.Module, "named_modules", noting)
    assert list(tiny_host.denoiser.unet.parameters())  # that it would be noted
    assert "UNet2DConditionModel" in walked
    walked.clear()
    with tiny_host.session("text", "denoiser", "codec", "clip", gradients=True):
        estimated(tiny_host.denoiser, tiny_host, latents, noise, sigma)
        tiny_host.codec.decode(tiny_host.codec.encode(images))
        tiny_host.clip.image_features(images)
    assert walked == []


def test_an_ordinary_prompt_is_encoded_as_transformers_does(tiny_host, tiny_model):
    from transformers import CLIPTextModel, CLIPTokenizer

    prompts, text = prompt(tiny_host)
    tokenizer = CLIPTokenizer.from_pretrained(tiny_model, subfolder="tokenizer")
    tower = CLIPTextModel.from_pretrained(tiny_model, subfolder="text_encoder").eval()
    batch = tokenizer("a photo of a dog", padding="max_length", max_length=77, return_tensors="pt")
    assert torch.equal(prompts["clip_l"].ids, batch["input_ids"])
    with torch.no_grad():
        output = tower(input_ids=batch["input_ids"])
    features = text["clip_l"]
    assert torch.allclose(features.context, output.last_hidden_state, atol=1e-6)
    assert torch.allclose(features.hidden[0, prompts["clip_l"].end[0]], output.pooler_output[0], atol=1e-6)


def test_embeddings_are_rows_of_the_table_without_gradient(tiny_host):
    encoder = tiny_host.text["clip_l"]
    ids = torch.tensor([[3, 5], [7, 3]])
    assert torch.equal(encoder.embed(ids), encoder.tower.get_input_embeddings().weight[ids])
    assert encoder.embed(torch.arange(encoder.vocabulary_size)).shape == (encoder.vocabulary_size, encoder.width)


def test_the_codec_takes_and_gives_zero_to_one(kl_model):
    from diffusers import AutoencoderKL

    host, images = load_host(kl_model), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    vae = AutoencoderKL.from_pretrained(kl_model, subfolder="vae")
    with torch.no_grad():
        latents = vae.encode(images * 2 - 1).latent_dist.mean * vae.config.scaling_factor
        decoded = (vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(host.codec.encode(images), latents, atol=1e-5)
    assert torch.allclose(host.codec.decode(latents), decoded, atol=1e-5)
    assert (host.codec.downscale, host.image_size) == (4, 32)


def test_image_features_are_those_of_transformers(tiny_host, tiny_model):
    from transformers import CLIPModel
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    generator = torch.Generator().manual_seed(0)
    images, pooled = torch.rand(2, 3, 32, 32, generator=generator), torch.randn(2, 32, generator=generator)
    clip = CLIPModel.from_pretrained(tiny_model / "clip").eval()
    mean, std = torch.tensor(OPENAI_CLIP_MEAN).view(3, 1, 1), torch.tensor(OPENAI_CLIP_STD).view(3, 1, 1)
    with torch.no_grad():
        expected = clip.visual_projection(clip.vision_model(pixel_values=(images - mean) / std).pooler_output)
        assert torch.allclose(tiny_host.clip.image_features(images), expected, atol=1e-4)
        assert torch.allclose(tiny_host.clip.project_text(pooled), clip.text_projection(pooled), atol=1e-6)
    assert tiny_host.clip.encoder == "clip_l"


def test_clip_resizes_images_to_its_own_size(tiny_host):
    small = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    flat = torch.full((1, 3, 64, 64), 0.3)
    assert tiny_host.clip.image_features(small).shape == (1, 16)
    assert torch.allclose(
        tiny_host.clip.image_features(flat), tiny_host.clip.image_features(flat[..., :32, :32]), atol=1e-4
    )


def test_own_normalisation_of_a_clip_model_is_used(tiny_model, tiny_host, tmp_path):
    folder = Path(shutil.copytree(tiny_model / "clip", tmp_path / "clip"))
    values = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")
    space = load_clip_space(folder, {"clip_l": 32})
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    old_mean, old_std = (torch.tensor(v).view(3, 1, 1) for v in (tiny_host.clip.mean, tiny_host.clip.std))
    same_pixels = (images - 0.5) / 0.25 * old_std + old_mean
    assert torch.allclose(space.image_features(images), tiny_host.clip.image_features(same_pixels), atol=1e-4)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_narrow_weights_give_wide_answers(tiny_model, tiny_host, cache, tokens, noisy, dtype):
    host = load_host(tiny_model, tiny_model / "clip", dtype=dtype)
    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    for module in (host.denoiser.unet, host.codec.vae, host.clip.module):
        assert {p.dtype for p in module.parameters()} == {narrow}
    text = torch.float32 if dtype == "fp16" else narrow  # in float16, what flows back would underflow
    assert {p.dtype for p in host.text["clip_l"].tower.parameters()} == {text}
    latents, noise, steps = noisy
    sigma = host.denoiser.sigmas[steps]
    assert sigma.dtype == torch.float32
    estimates = [estimated(each.denoiser, each, latents, noise, sigma)[0] for each in (host, tiny_host)]
    assert estimates[0].dtype == torch.float32
    assert F.cosine_similarity(estimates[0].flatten(1), estimates[1].flatten(1)).min() > 0.99
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert {host.codec.encode(images).dtype, host.clip.image_features(images).dtype} == {torch.float32}
    learned = train(host, cache, tokens, SHORT).tokens.vectors["clip_l"]
    assert learned.dtype == torch.float32
    assert not torch.equal(learned.to(narrow).float(), learned)  # learned in float32, not rounded to the weights'
    assert host.fingerprint != tiny_host.fingerprint


def test_fingerprints_follow_what_features_depend_on(tiny_model, tiny_host, kl_model):
    assert load_host(tiny_model, tiny_model / "clip").fingerprint == tiny_host.fingerprint
    others = [load_host(tiny_model).fingerprint, load_host(kl_model, kl_model / "clip").fingerprint]
    assert len({tiny_host.fingerprint, *others}) == 3
