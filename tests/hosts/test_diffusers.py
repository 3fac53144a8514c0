import json
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from mcti_core.errors import HostError
from mcti_core.hosts.diffusers.clip_space import load_clip_space
from mcti_core.hosts.diffusers.host import UNetDenoiser, load_host
from mcti_core.losses import noise_error
from mcti_core.prompts.splicing import encode_prompts, host_prompts
from mcti_core.training.loop import TrainConfig, train

SHORT = TrainConfig(steps=2, batch_size=3, lr=0.01, lr_warmup_steps=0, templates=("a photo of a {}",))


@pytest.fixture(scope="module")
def kl_model(tiny_model, tmp_path_factory) -> Path:
    """The tiny model with the kind of autoencoder that Stable Diffusion has."""
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("kl") / "model"
    shutil.copytree(tiny_model, folder)
    shutil.rmtree(folder / "vae")
    torch.manual_seed(1)
    AutoencoderKL(
        block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, norm_num_groups=4, sample_size=32,
    ).save_pretrained(folder / "vae")  # fmt: skip
    change(folder / "model_index.json", vae=["diffusers", "AutoencoderKL"])
    return folder


@pytest.fixture(scope="module")
def single_file(kl_model, tmp_path_factory):
    """The same model as one file, and a folder of its family that holds configurations and no weights."""
    spec = spec_from_file_location("ldm_layout", Path(__file__).with_name("ldm_layout.py"))
    layout = module_from_spec(spec)
    spec.loader.exec_module(layout)
    host, folder = load_host(kl_model), tmp_path_factory.mktemp("single")
    state = [m.state_dict() for m in (host.text["clip_l"].tower, host.denoiser.unet, host.codec.vae)]
    save_file(layout.ldm_checkpoint(*state, layers=1), folder / "model.safetensors")
    shutil.copytree(kl_model, folder / "family", ignore=shutil.ignore_patterns("*.safetensors", "clip"))
    # As in SD 1.5's, whose safety checker and feature extractor are not needed.
    change(
        folder / "family" / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    return folder / "model.safetensors", folder / "family"


@pytest.fixture
def copy(kl_model, tmp_path) -> Path:
    """A copy of the model to damage."""
    return Path(shutil.copytree(kl_model, tmp_path / "copy"))


def change(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def widen(folder: Path, channels: int) -> None:
    """Give the UNet of a model more channels to take."""
    from diffusers import UNet2DConditionModel

    config = dict(UNet2DConditionModel.load_config(folder / "unet"))
    UNet2DConditionModel.from_config({**config, "in_channels": channels}).save_pretrained(folder / "unet")


def prompt(host, text="a photo of a dog"):
    prompts = host_prompts(host, [text], (), 1)
    return prompts, encode_prompts(host, prompts, {name: torch.zeros(1, 1, e.width) for name, e in host.text.items()})


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
    _, text = prompt(tiny_host)
    context = text["clip_l"].rows(torch.zeros(3, dtype=torch.long))
    sigma = denoiser.sigmas[steps]
    estimate = denoiser.denoise(denoiser.noised(latents, noise, sigma), sigma, {"clip_l": context})
    for i, step in enumerate(steps):
        sample = scheduler.add_noise(latents[i : i + 1], noise[i : i + 1], step[None])
        with torch.no_grad():
            output = denoiser.unet(sample, step, encoder_hidden_states=context.context[:1]).sample
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
    _, text = prompt(tiny_host)
    context = text["clip_l"].rows(torch.zeros(3, dtype=torch.long))
    sigma = denoiser.sigmas[steps]
    estimate = denoiser.denoise(denoiser.noised(latents, noise, sigma), sigma, {"clip_l": context})
    loss = denoiser.weight(sigma) * noise_error(latents, estimate, sigma)
    with torch.no_grad():
        sample = scheduler.add_noise(latents, noise, steps)
        output = denoiser.unet(sample, steps, encoder_hidden_states=context.context).sample
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
    _, text = prompt(tiny_host)
    context = {"clip_l": text["clip_l"].rows(torch.zeros(3, dtype=torch.long))}
    estimate = denoiser.denoise(denoiser.noised(latents, noise, sigma), sigma, context)
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
        _, text = prompt(tiny_host)
        context = text["clip_l"].rows(torch.zeros(3, dtype=torch.long))
        tiny_host.denoiser.denoise(tiny_host.denoiser.noised(latents, noise, sigma), sigma, {"clip_l": context})
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
    assert encoder.embed(torch.arange(encoder.vocabulary)).shape == (encoder.vocabulary, encoder.width)


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
    estimates = []
    for each in (host, tiny_host):
        _, text = prompt(each)
        context = {"clip_l": text["clip_l"].rows(torch.zeros(3, dtype=torch.long))}
        estimates.append(each.denoiser.denoise(each.denoiser.noised(latents, noise, sigma), sigma, context))
    assert estimates[0].dtype == torch.float32
    assert F.cosine_similarity(estimates[0].flatten(1), estimates[1].flatten(1)).min() > 0.99
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert {host.codec.encode(images).dtype, host.clip.image_features(images).dtype} == {torch.float32}
    learned = train(host, cache, tokens, SHORT).tokens.vectors["clip_l"]
    assert learned.dtype == torch.float32
    assert not torch.equal(learned.to(narrow).float(), learned)  # learned in float32, not rounded to the weights'
    assert host.fingerprint != tiny_host.fingerprint


def test_a_single_file_is_the_same_model(kl_model, single_file):
    checkpoint, family = single_file
    folder, single = load_host(kl_model, kl_model / "clip"), load_host(checkpoint, kl_model / "clip", config=family)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sigma = folder.denoiser.sigmas[[400]]
    assert torch.equal(single.denoiser.sigmas, folder.denoiser.sigmas)
    texts = [prompt(host)[1] for host in (folder, single)]
    assert torch.allclose(texts[0]["clip_l"].context, texts[1]["clip_l"].context, atol=1e-6)
    first, second = (
        host.denoiser.denoise(latents, sigma, text) for host, text in zip((folder, single), texts, strict=True)
    )
    assert torch.allclose(first, second, atol=1e-5)
    assert torch.allclose(folder.codec.encode(images), single.codec.encode(images), atol=1e-6)
    assert torch.allclose(folder.codec.decode(latents), single.codec.decode(latents), atol=1e-6)
    assert single.fingerprint == folder.fingerprint
    assert single.image_size == 32


def test_a_single_file_in_narrow_weights(single_file, tiny_host):
    host = load_host(single_file[0], config=single_file[1], dtype="bf16")
    modules = (host.text["clip_l"].tower, host.denoiser.unet, host.codec.vae)
    assert {p.dtype for module in modules for p in module.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad or p.is_meta for module in modules for p in module.parameters())
    assert not any(module.training for module in modules)


@pytest.mark.parametrize("part", ["first_stage_model", "cond_stage_model", "model.diffusion_model"])
@pytest.mark.parametrize("which", ["all", "one"])
def test_a_single_file_that_lacks_weights_is_refused(single_file, tmp_path, part, which):
    content = load_file(single_file[0])
    names = [name for name in content if name.startswith(part)]
    for name in names if which == "all" else names[20:21]:
        del content[name]
    save_file(content, tmp_path / "cut.safetensors")
    with pytest.raises(HostError, match=r"cut\.safetensors (cannot be loaded|\(unknown family\) has no UNet)"):
        load_host(tmp_path / "cut.safetensors", config=single_file[1])


@pytest.mark.parametrize("name", ["junk.safetensors", "junk.ckpt"])
def test_a_file_that_is_no_checkpoint_is_refused(single_file, tmp_path, name):
    (tmp_path / name).write_bytes(b"junk" * 100)
    with pytest.raises(HostError, match=f"{name} cannot be loaded"):
        load_host(tmp_path / name, config=single_file[1])


class Code:
    def __reduce__(self):
        return Path.touch, (Path("was-run"),)


def test_code_in_a_pickled_checkpoint_is_not_run(single_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": load_file(single_file[0])}
    torch.save({**content, "x": Code()}, tmp_path / "code.ckpt")
    torch.save(content, tmp_path / "plain.ckpt")
    load_host(tmp_path / "plain.ckpt", config=single_file[1])
    with pytest.raises(HostError, match=r"code\.ckpt cannot be loaded"):
        load_host(tmp_path / "code.ckpt", config=single_file[1])
    assert not (tmp_path / "was-run").exists()


def test_a_config_that_is_no_diffusers_folder_is_refused(single_file, tmp_path):
    with pytest.raises(HostError, match=r"is not a diffusers folder: it contains no model_index\.json"):
        load_host(single_file[0], config=tmp_path)
    family = Path(shutil.copytree(single_file[1], tmp_path / "family"))
    shutil.rmtree(family / "tokenizer")
    with pytest.raises(
        HostError, match=r"family is not a whole diffusers folder: it contains no tokenizer/vocab\.json"
    ):
        load_host(single_file[0], config=family)


def test_missing_models_are_named(tmp_path, tiny_model):
    with pytest.raises(HostError, match=r"no model at .*nowhere"):
        load_host(tmp_path / "nowhere")
    with pytest.raises(HostError, match=r"is not a diffusers folder: it contains no model_index\.json") as caught:
        load_host(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(HostError, match=r"no CLIP model at .*nowhere"):
        load_host(tiny_model, tmp_path / "nowhere")
    with pytest.raises(HostError, match="'fp8' is not one of fp32, bf16, fp16"):
        load_host(tiny_model, dtype="fp8")


@pytest.mark.parametrize("channels", [5, 8, 9])
def test_models_for_inpainting_depth_or_editing_are_refused(copy, channels):
    widen(copy, channels)
    with pytest.raises(HostError, match=f"copy takes {channels} channels where 4 are latents") as caught:
        load_host(copy)
    assert "\n" not in str(caught.value)


def test_a_single_file_for_inpainting_is_refused(copy, single_file, tmp_path):
    """With a folder of its own kind, and with one of the kind without inpainting."""
    content, name = load_file(single_file[0]), "model.diffusion_model.input_blocks.0.0.weight"
    save_file({**content, name: content[name].repeat(1, 3, 1, 1)[:, :9].clone()}, tmp_path / "inpaint.safetensors")
    widen(copy, 9)
    for config, message in ((copy, "takes 9 channels where 4 are latents"), (single_file[1], "cannot be loaded")):
        with pytest.raises(HostError, match=message) as caught:
            load_host(tmp_path / "inpaint.safetensors", config=config)
        assert "\n" not in str(caught.value)


def test_a_model_without_a_unet_is_refused(copy):
    index = copy / "model_index.json"
    parts = json.loads(index.read_text(encoding="utf-8"))
    parts["transformer"] = parts.pop("unet")
    index.write_text(json.dumps(parts), encoding="utf-8")
    with pytest.raises(
        HostError, match=r"copy \(StableDiffusionPipeline\) has no UNet; only Stable Diffusion 1\.x, 2\.x and XL"
    ):
        load_host(copy)


def test_a_unet_that_wants_more_than_its_text_encoder_says_is_refused(copy):
    from diffusers import UNet2DConditionModel

    change(
        copy / "unet" / "config.json", addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )  # fmt: skip
    config = UNet2DConditionModel.load_config(copy / "unet")
    UNet2DConditionModel.from_config(config).save_pretrained(copy / "unet")
    with pytest.raises(HostError, match="the text encoders clip_l and 'text_time' conditioning;"):
        load_host(copy)


def test_latents_that_are_shifted_by_channel_are_refused(copy):
    change(copy / "vae" / "config.json", latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    with pytest.raises(HostError, match="copy shifts its latents by channel"):
        load_host(copy)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_folder_without_a_part_is_refused(copy, part):
    shutil.rmtree(copy / part)
    with pytest.raises(HostError) as caught:
        load_host(copy)
    assert str(copy) in str(caught.value)


WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "clip": "clip/model.safetensors",
}


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_are_never_left_at_random(copy, part):
    file = copy / WEIGHTS[part]
    content = load_file(file)
    name = sorted(name for name in content if part != "clip" or name.startswith("vision_model"))[-1]
    del content[name]
    save_file(content, file, metadata={"format": "pt"})
    with pytest.raises(HostError, match=f"lacks 1 of its weights.*{name.split('.')[-2]}") as caught:
        load_host(copy, copy / "clip")
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize("part", WEIGHTS)
def test_damaged_weights_are_named(copy, part):
    (copy / WEIGHTS[part]).write_bytes(b"junk" * 20)
    with pytest.raises(HostError) as caught:
        load_host(copy, copy / "clip")
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_clip_model_of_another_width_is_refused(tiny_model, tmp_path):
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision = {**text, "hidden_size": 32, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config={**text, "vocab_size": 50}, vision_config=vision)
    CLIPModel(config).save_pretrained(tmp_path / "wide")
    with pytest.raises(HostError, match=r"48 wide, this checkpoint has clip_l \(32 wide\);") as caught:
        load_host(tiny_model, tmp_path / "wide")
    assert str(tmp_path / "wide") in str(caught.value)


def test_a_text_encoder_is_no_clip_model(tiny_model):
    with pytest.raises(HostError, match="text_encoder cannot be loaded: it lacks"):
        load_clip_space(tiny_model / "text_encoder", {"clip_l": 32})


def test_older_names_of_the_autoencoders_attention_are_known(copy, kl_model):
    """Stable Diffusion 1.5's own folder has them."""
    content = load_file(copy / WEIGHTS["vae"])
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        content = {key.replace(f".{new}.", f".{name}."): value for key, value in content.items()}
    assert any(".query." in key for key in content)
    save_file(content, copy / WEIGHTS["vae"], metadata={"format": "pt"})
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_host(copy).codec.encode(images), load_host(kl_model).codec.encode(images))


def test_fingerprints_follow_what_features_depend_on(tiny_model, tiny_host, copy):
    assert load_host(tiny_model, tiny_model / "clip").fingerprint == tiny_host.fingerprint
    others = [load_host(tiny_model).fingerprint, load_host(copy, copy / "clip").fingerprint]
    assert len({tiny_host.fingerprint, *others}) == 3


@pytest.mark.parametrize("kind", ["folder", "link", "link to nothing", "file"])
@pytest.mark.parametrize("name", ["stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0", "stabilityai/stable-diffusion-2-1"])  # fmt: skip
def test_folder_with_a_repositorys_name_in_the_current_folder_is_not_read(single_file, tmp_path, monkeypatch, name, kind):  # fmt: skip
    file, family = single_file
    place = tmp_path / "cwd" / name
    place.parent.mkdir(parents=True)
    real = tmp_path / "real" if kind == "link" else place
    if kind in ("folder", "link"):
        shutil.copytree(family, real)
        change(real / "model_index.json", vae=["antigravity", "X"])  # a module that opens a browser when it is imported
    if kind.startswith("link"):
        place.symlink_to(real if kind == "link" else tmp_path / "nothing")
    if kind == "file":
        place.write_bytes(b"")
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setitem(sys.modules, "antigravity", None)
    with pytest.raises(HostError, match="has the name of a repository") as told:
        load_host(file)
    assert name in str(told.value)
    assert load_host(file, config=family).name == "model.safetensors"  # with its own settings it is loaded as ever


def test_diffusers_that_hides_its_repositories_needs_a_config(single_file, monkeypatch):
    from diffusers.loaders import single_file_utils

    monkeypatch.delattr(single_file_utils, "DIFFUSERS_DEFAULT_PIPELINE_PATHS")
    with pytest.raises(HostError, match="needs a diffusers folder"):
        load_host(single_file[0])
