"""Models are loaded whole from folders and single files; incomplete, damaged and other models are refused in one sentence."""

import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcti_core.errors import HostError
from mcti_core.hosts.diffusers.clip_space import load_clip_space
from mcti_core.hosts.diffusers.host import load_host
from mcti_core.prompts.splicing import encode_prompts, host_prompts

from .model_files import change, single_file_of, without


class Family(NamedTuple):
    """A folder, the CLIP model in it, the same model as one file, and a folder of configurations without weights."""

    model: Path
    clip: Path
    file: Path
    config: Path


@pytest.fixture(scope="module")
def sd(kl_model, tmp_path_factory):
    file, config = single_file_of(kl_model, load_host(kl_model), tmp_path_factory.mktemp("sd"))
    # As in SD 1.5's, whose safety checker and feature extractor are not needed.
    change(
        config / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    return Family(kl_model, kl_model / "clip", file, config)


@pytest.fixture(scope="module")
def xl(xl_model, tmp_path_factory):
    file, config = single_file_of(xl_model, load_host(xl_model), tmp_path_factory.mktemp("xl"))
    return Family(xl_model, xl_model / "clip_g", file, config)


@pytest.fixture
def family(request):
    """The family that a test's first parameter names."""
    return request.getfixturevalue(request.param)


BOTH = pytest.mark.parametrize("family", ["sd", "xl"], indirect=True)


@pytest.fixture
def copy(kl_model, tmp_path) -> Path:
    """A copy of the SD 1.x model to damage."""
    return Path(shutil.copytree(kl_model, tmp_path / "copy"))


def widen(folder: Path, channels: int) -> None:
    """Give the UNet of a model more channels to take."""
    from diffusers import UNet2DConditionModel

    config = dict(UNet2DConditionModel.load_config(folder / "unet"))
    UNet2DConditionModel.from_config({**config, "in_channels": channels}).save_pretrained(folder / "unet")


def encoded(host):
    """All tensors that an encoded prompt gives a denoiser."""
    vectors = {name: torch.zeros(1, 1, encoder.width) for name, encoder in host.text.items()}
    text = encode_prompts(host, host_prompts(host, ["a photo of a dog"], (), 1), vectors)
    return text, [tensor for features in text.values() for tensor in features.tensors().values()]


@BOTH
def test_a_single_file_is_the_same_model(family):
    folder, single = load_host(family.model, family.clip), load_host(family.file, family.clip, config=family.config)
    assert {name: e.pad_token_id for name, e in single.text.items()} == {
        n: e.pad_token_id for n, e in folder.text.items()
    }
    assert torch.equal(single.denoiser.sigmas, folder.denoiser.sigmas)
    (text, tensors), (other_text, other_tensors) = map(encoded, (folder, single))
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(tensors, other_tensors, strict=True))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sigma = folder.denoiser.sigmas[[400]]
    with torch.no_grad():
        estimate, other = (
            folder.denoiser.denoise(latents, sigma, text),
            single.denoiser.denoise(latents, sigma, other_text),
        )
    assert torch.allclose(estimate, other, atol=1e-5)
    assert torch.allclose(folder.codec.encode(images), single.codec.encode(images), atol=1e-6)
    assert torch.allclose(folder.codec.decode(latents), single.codec.decode(latents), atol=1e-6)
    assert (single.fingerprint, single.image_size) == (folder.fingerprint, 32)


def test_a_sd_in_narrow_weights(sd):
    host = load_host(sd.file, config=sd.config, dtype="bf16")
    modules = (host.text["clip_l"].tower, host.denoiser.unet, host.codec.vae)
    assert {p.dtype for module in modules for p in module.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad or p.is_meta for module in modules for p in module.parameters())
    assert not any(module.training for module in modules)


def test_a_pickled_xl_is_known_by_its_config(xl, tmp_path):
    torch.save({"state_dict": load_file(xl.file)}, tmp_path / "model.ckpt")
    host = load_host(tmp_path / "model.ckpt", config=xl.config, dtype="fp16")
    assert list(host.text) == ["clip_l", "clip_g"]
    assert {p.dtype for p in host.codec.vae.parameters()} == {torch.float32}
    assert host.denoiser.unet.dtype == torch.float16


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("sd", "first_stage_model"), ("sd", "cond_stage_model"), ("sd", "model.diffusion_model"),
        ("xl", "conditioner.embedders.0"), ("xl", "conditioner.embedders.1"), ("xl", "model.diffusion_model.label_emb"),
    ],
    indirect=["family"],
)  # fmt: skip
@pytest.mark.parametrize("which", ["all", "one"])
def test_a_single_file_that_lacks_weights_is_refused(family, tmp_path, part, which):
    names = sorted(name for name in load_file(family.file) if name.startswith(part))
    cut = without(family.file, names if which == "all" else names[-1:], tmp_path / "cut.safetensors")
    with pytest.raises(HostError, match=r"cut\.safetensors (cannot be loaded|\(unknown family\) has no UNet)"):
        load_host(cut, config=family.config)


@pytest.mark.parametrize("name", ["junk.safetensors", "junk.ckpt"])
def test_a_file_that_is_no_checkpoint_is_refused(sd, tmp_path, name):
    (tmp_path / name).write_bytes(b"junk" * 100)
    with pytest.raises(HostError, match=f"{name} cannot be loaded"):
        load_host(tmp_path / name, config=sd.config)


class Code:
    def __reduce__(self):
        return Path.touch, (Path("was-run"),)


def test_code_in_a_pickled_checkpoint_is_not_run(sd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": load_file(sd.file)}
    torch.save({**content, "x": Code()}, tmp_path / "code.ckpt")
    torch.save(content, tmp_path / "plain.ckpt")
    load_host(tmp_path / "plain.ckpt", config=sd.config)
    with pytest.raises(HostError, match=r"code\.ckpt cannot be loaded"):
        load_host(tmp_path / "code.ckpt", config=sd.config)
    assert not (tmp_path / "was-run").exists()


def test_a_config_that_is_no_diffusers_folder_is_refused(sd, tmp_path):
    with pytest.raises(HostError, match=r"is not a diffusers folder: it contains no model_index\.json"):
        load_host(sd.file, config=tmp_path)


@pytest.mark.parametrize(("family", "tokenizer"), [("sd", "tokenizer"), ("xl", "tokenizer_2")], indirect=["family"])
def test_a_config_without_a_tokenizer_is_refused(family, tokenizer, tmp_path):
    config = Path(shutil.copytree(family.config, tmp_path / "config"))
    shutil.rmtree(config / tokenizer)
    with pytest.raises(
        HostError, match=rf"config is not a whole diffusers folder: it contains no {tokenizer}/vocab\.json"
    ):
        load_host(family.file, config=config)


def test_a_xl_and_a_config_of_different_families_are_refused(xl, tiny_model, tmp_path):
    with pytest.raises(HostError, match=r"is Stable Diffusion XL, its config .* is of Stable Diffusion 1\.x or 2\.x"):
        load_host(xl.file, config=tiny_model)
    content = load_file(xl.file)
    older = {name.replace("conditioner.embedders.0", "cond_stage_model"): value for name, value in content.items()}
    save_file(
        {name: value for name, value in older.items() if "conditioner" not in name}, tmp_path / "older.safetensors"
    )
    with pytest.raises(HostError, match=r"is Stable Diffusion 1\.x or 2\.x, its config .* is of Stable Diffusion XL"):
        load_host(tmp_path / "older.safetensors", config=xl.config)


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


@pytest.mark.parametrize(("family", "channels"), [("sd", 5), ("sd", 8), ("sd", 9), ("xl", 9)], indirect=["family"])
def test_models_for_inpainting_depth_or_editing_are_refused(family, channels, tmp_path):
    copy = Path(shutil.copytree(family.model, tmp_path / "copy"))
    widen(copy, channels)
    with pytest.raises(HostError, match=f"copy takes {channels} channels where 4 are latents") as caught:
        load_host(copy)
    assert "\n" not in str(caught.value)


def test_a_sd_for_inpainting_is_refused(copy, sd, tmp_path):
    """With a folder of its own kind, and with one of the kind without inpainting."""
    content, name = load_file(sd.file), "model.diffusion_model.input_blocks.0.0.weight"
    save_file({**content, name: content[name].repeat(1, 3, 1, 1)[:, :9].clone()}, tmp_path / "inpaint.safetensors")
    widen(copy, 9)
    for config, message in ((copy, "takes 9 channels where 4 are latents"), (sd.config, "cannot be loaded")):
        with pytest.raises(HostError, match=message) as caught:
            load_host(tmp_path / "inpaint.safetensors", config=config)
        assert "\n" not in str(caught.value)


def test_the_refiner_is_refused(xl, tmp_path):
    copy, content = Path(shutil.copytree(xl.model, tmp_path / "copy")), load_file(xl.file)
    names = {n: n.replace("embedders.1", "embedders.0") for n in content if "embedders.0" not in n}
    save_file({new: content[old] for old, new in names.items()}, tmp_path / "refiner.safetensors")
    change(copy / "model_index.json", text_encoder=[None, None], tokenizer=[None, None])
    for path, config in ((copy, None), (tmp_path / "refiner.safetensors", None), (xl.file, copy)):
        with pytest.raises(HostError, match=r"is the SDXL refiner, .* give the SDXL base model"):
            load_host(path, config=config)


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


@pytest.mark.parametrize(
    ("family", "part"),
    [
        *(("sd", part) for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")),
        *(("xl", part) for part in ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")),
    ],
    indirect=["family"],
)
def test_a_folder_without_a_part_is_refused(family, part, tmp_path):
    copy = Path(shutil.copytree(family.model, tmp_path / "copy"))
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


@pytest.mark.parametrize(
    ("family", "file", "prefix"),
    [
        ("sd", WEIGHTS["unet"], ""), ("sd", WEIGHTS["vae"], ""), ("sd", WEIGHTS["text_encoder"], ""),
        ("sd", WEIGHTS["clip"], "vision_model"), ("xl", "text_encoder_2/model.safetensors", "text_projection"),
    ],
    indirect=["family"],
)  # fmt: skip
def test_weights_are_never_left_at_random(family, file, prefix, tmp_path):
    copy = Path(shutil.copytree(family.model, tmp_path / "copy"))
    name = max(name for name in load_file(copy / file) if name.startswith(prefix))
    without(copy / file, [name], copy / file)
    with pytest.raises(HostError, match=f"lacks 1 of its weights.*{name.split('.')[-2]}") as caught:
        load_host(copy, copy / family.clip.name)
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


def test_a_clip_model_that_fits_neither_encoder_is_refused(xl_model):
    with pytest.raises(
        HostError, match=r"40 wide, this checkpoint has clip_l \(32 wide\) and other \(768 wide\)"
    ) as caught:
        load_clip_space(xl_model / "clip_g", {"clip_l": 32, "other": 768})
    assert str(xl_model / "clip_g") in str(caught.value)


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


@pytest.mark.parametrize("kind", ["folder", "link", "link to nothing", "file"])
@pytest.mark.parametrize("name", ["stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0", "stabilityai/stable-diffusion-2-1"])  # fmt: skip
def test_folder_with_a_repositorys_name_in_the_current_folder_is_not_read(sd, tmp_path, monkeypatch, name, kind):  # fmt: skip
    place = tmp_path / "cwd" / name
    place.parent.mkdir(parents=True)
    real = tmp_path / "real" if kind == "link" else place
    if kind in ("folder", "link"):
        shutil.copytree(sd.config, real)
        change(real / "model_index.json", vae=["antigravity", "X"])  # a module that opens a browser when it is imported
    if kind.startswith("link"):
        place.symlink_to(real if kind == "link" else tmp_path / "nothing")
    if kind == "file":
        place.write_bytes(b"")
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setitem(sys.modules, "antigravity", None)
    with pytest.raises(HostError, match="has the name of a repository") as told:
        load_host(sd.file)
    assert name in str(told.value)
    assert (
        load_host(sd.file, config=sd.config).name == "model.safetensors"
    )  # with its own settings it is loaded as ever


def test_diffusers_that_hides_its_repositories_needs_a_config(sd, monkeypatch):
    from diffusers.loaders import single_file_utils

    monkeypatch.delattr(single_file_utils, "DIFFUSERS_DEFAULT_PIPELINE_PATHS")
    with pytest.raises(HostError, match="needs a diffusers folder"):
        load_host(sd.file)
