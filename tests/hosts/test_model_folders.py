"""A model folder selects fixed classes, and no code in it runs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mcti_core.errors import HostError
from mcti_core.hosts.diffusers.clip_space import load_clip_space
from mcti_core.hosts.diffusers.host import load_host
from mcti_core.hosts.diffusers.model_folders import CLASSES, check_component

from .model_files import change

ROOT = Path(__file__).parents[2]
PIPELINE = "from pathlib import Path\nPath('RAN').touch()\nclass Evil:\n    pass\n"


@pytest.fixture
def copy(tiny_model, tmp_path, monkeypatch) -> Path:
    """A whole folder with code in it, and a working folder in which the code would leave a trace."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir()), tmp_path):
        (place / "pipeline.py").write_text(PIPELINE)
        (place / "evil.py").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


@pytest.fixture
def called(monkeypatch) -> list[str]:
    """Names of the loaders that were called."""
    import diffusers

    names: list[str] = []
    for loader in (diffusers.DiffusionPipeline, diffusers.ModelMixin, diffusers.StableDiffusionPipeline):
        for how in ("from_pretrained", "from_single_file"):
            monkeypatch.setattr(
                loader, how, classmethod(lambda cls, *_, **__: names.append(cls.__name__)), raising=False
            )
    return names


@pytest.mark.parametrize(
    "given",
    [
        ["diffusers", "DiffusionPipeline"], ["diffusers", "AutoPipelineForText2Image"], ["diffusers", "UNet2DConditionModel"],
        ["evil", "Evil"], ["pipeline", "AutoencoderKL"], ["os", "system"], ["diffusers", ["AutoencoderKL"]], ["AutoencoderKL"], [None, "X"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("part", ["vae", "unet", "scheduler", "text_encoder", "tokenizer"])
def test_load_host_with_another_class_calls_nothing(part, given, copy, called):
    if given[-1] in CLASSES[part][1] and given[0] == "diffusers":
        given = ["diffusers", "Transformer2DModel"]
    change(copy / "model_index.json", **{part: given})
    change(copy / "vae" / "model_index.json", _class_name=["pipeline", "Evil"])
    with pytest.raises(HostError, match=rf"as the {part}"):
        load_host(copy)
    assert not called
    assert not Path("RAN").exists()


def test_load_host_with_a_pipeline_of_its_own_calls_nothing(copy, called):
    change(copy / "model_index.json", _class_name=["pipeline", "Evil"])
    with pytest.raises(HostError, match="a pipeline class of its own"):
        load_host(copy)
    assert not called


@pytest.mark.parametrize(
    ("place", "values"),
    [
        ("vae/config.json", {"_class_name": "DiffusionPipeline"}),
        ("unet/config.json", {"_class_name": ["pipeline", "Evil"]}),
        ("scheduler/scheduler_config.json", {"_class_name": "EvilScheduler"}),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "EvilTokenizer"}),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}),
        ("text_encoder/config.json", {"text_config": {"auto_map": {"AutoModel": "evil.Evil"}}}),
        ("text_encoder/config.json", {"attn_implementation": "someone/kernel"}),
        ("text_encoder/config.json", {"_attn_implementation": {"": "someone/kernel:evil"}}),
        ("text_encoder/config.json", {"quantization_config": {"quant_method": "evil"}}),
        ("unet/config.json", {"quantization_config": {"quant_method": "evil"}}),
        ("vae/config.json", {"trust_remote_code": True}),
        ("text_encoder/adapter_config.json", {"base_model_name_or_path": "someone/else"}),
        ("adapter_config.json", {"base_model_name_or_path": "someone/else"}),
        ("config.json", {"auto_map": {"AutoConfig": "evil.Evil"}}),
        ("text_encoder/config.json", {"configuration_files": ["config.4.0.0.json"]}),
    ],
)
def test_load_host_with_code_in_a_part_calls_nothing(place, values, copy, called):
    change(copy / place, **values)
    with pytest.raises(HostError, match=re.escape(Path(place).name)):
        load_host(copy)
    assert not called


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"[]", b"3", b"{", b'{"a":' * 100 + b"1" + b"}" * 100, b" " * 2**21, b"\xff\xfe{}"]
)
@pytest.mark.parametrize("place", ["model_index.json", "unet/config.json"])
def test_load_host_with_damaged_settings_is_a_sentence(place, content, copy):
    (copy / place).write_bytes(content)
    with pytest.raises(HostError, match=r"cannot be read|has no UNet|nested too deeply") as refused:
        load_host(copy)
    assert len(str(refused.value)) < 500


def test_clip_space_whose_settings_lead_to_other_settings_is_refused(copy, tiny_host):
    """transformers would follow them after the look at the first ones, to a kernel for one."""
    config = copy / "clip" / "config.json"
    shutil.copy(config, config.with_name("config.4.0.0.json"))
    change(config.with_name("config.4.0.0.json"), attn_implementation="someone/kernel")
    change(config, configuration_files=["config.4.0.0.json"])
    with pytest.raises(HostError, match="'configuration_files'"):
        load_clip_space(copy / "clip", {"clip_l": tiny_host.text["clip_l"].width})


@pytest.mark.parametrize(
    ("place", "values"),
    [
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 3 * 10**8}),
        ("text_encoder/config.json", {"num_hidden_layers": 20_000}),
        ("text_encoder/config.json", {"num_labels": 10**8}),
        ("text_encoder/config.json", {"text_config": {"max_position_embeddings": 10**9}}),
        ("unet/config.json", {"layers_per_block": 2_000}),
        ("unet/config.json", {"transformer_layers_per_block": [[1], [1, 2_000]]}),
        ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 2_000}),
        ("unet/config.json", {"cross_attention_dim": 10 ** 4_000}),
        ("vae/config.json", {"num_decoder_blocks": [10_000, 1, 1]}),
    ],
)  # fmt: skip
def test_load_host_with_sizes_of_no_model_makes_nothing(place, values, copy, called):
    change(copy / place, **values)
    with pytest.raises(HostError, match=f"{place}.*where Stable Diffusion and CLIP have at most") as refused:
        load_host(copy)
    assert len(str(refused.value)) < 500
    assert not called


def test_check_component_with_sizes_of_the_largest_models_passes(tmp_path):
    text = {
        "num_hidden_layers": 32,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "vocab_size": 49408,
        "eos_token_id": 49407,
    }
    change(
        tmp_path / "config.json", text_config=text, vision_config={"num_hidden_layers": 48, "intermediate_size": 8192}
    )
    change(
        tmp_path / "scheduler_config.json",
        num_train_timesteps=1000,
        trained_betas=[0.1] * 1000,
        lambda_min_clipped=-float("inf"),
    )
    check_component(tmp_path)
    change(
        tmp_path / "config.json", block_out_channels=[320, 640, 1280, 1280], transformer_layers_per_block=[1, 2, 10], sample_size=1024,
        projection_class_embeddings_input_dim=2816, _use_default_values=["a"] * 40,
    )  # fmt: skip
    check_component(tmp_path)


def test_single_file_with_a_config_that_names_another_class_calls_nothing(copy, called, tmp_path):
    import torch

    names = ("cond_stage_model.x", "model.diffusion_model.input_blocks.0.x")
    save_file({name: torch.ones(1) for name in names}, tmp_path / "model.safetensors")
    change(copy / "model_index.json", scheduler=["evil", "Evil"])
    with pytest.raises(HostError, match="as the scheduler"):
        load_host(tmp_path / "model.safetensors", config=copy)
    change(copy / "model_index.json", scheduler=["diffusers", "DDPMScheduler"], safety_checker=["evil", "Evil"])
    with pytest.raises(HostError, match="as the safety_checker"):
        load_host(tmp_path / "model.safetensors", config=copy)
    assert not called
    assert not Path("RAN").exists()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil.Evil"}}),
        ("config.json", {"vision_config": {"attn_implementation": "someone/kernel"}}),
        ("adapter_config.json", {"base_model_name_or_path": "someone/else"}),
        ("preprocessor_config.json", {"image_mean": "abc"}),
        ("preprocessor_config.json", {"image_std": [1, 2]}),
    ],
)
def test_clip_space_with_code_or_damage_in_its_folder_is_refused(name, values, copy, tiny_host):
    change(copy / "clip" / name, **values)
    with pytest.raises(HostError, match=name):
        load_clip_space(copy / "clip", {"clip_l": tiny_host.text["clip_l"].width})


def test_classes_are_checked_before_diffusers_is_imported(copy):
    change(copy / "model_index.json", vae=["evil", "Evil"])
    code = (
        "import sys; from mcti_core.errors import HostError; from mcti_core.hosts.diffusers.loading import load_parts; from pathlib import Path\n"
        f"try:\n    load_parts(Path({str(copy)!r}), None, None)\nexcept HostError:\n    print([m for m in sys.modules if 'diffusers' == m])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_diffusers_that_runs_code_of_folders_is_not_asked_for():
    """0.30.3, 0.32.2 and 0.37.1 run a folder's ``pipeline.py``; 0.38 and newer refuse by themselves."""
    (bound,) = re.findall(r'"diffusers>=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert tuple(map(int, bound)) >= (0, 38)


WIDE = {
    "hidden_size": 1024,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 8,
}


def test_clip_space_that_asks_for_more_than_it_stores_is_refused_before_room_is_made(tmp_path, monkeypatch):
    """500 bytes of weights took 7 GiB, and more layers all memory."""
    from transformers import CLIPModel

    change(
        tmp_path / "config.json",
        model_type="clip", projection_dim=8, text_config=WIDE, vision_config={**WIDE, "image_size": 32, "patch_size": 16},
    )  # fmt: skip
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "model.safetensors", {"format": "pt"})
    called = list[str]()
    monkeypatch.setattr(CLIPModel, "from_pretrained", lambda *_, **__: called.append("loaded"))
    with pytest.raises(HostError, match=r"asks for [0-9,]{9,} numbers, and its files have \d+ bytes"):
        load_clip_space(tmp_path, {"clip_l": 1024})
    assert not called


@pytest.mark.parametrize("part", ["text_encoder"])
def test_load_host_with_a_part_that_asks_for_more_than_it_stores_is_refused(part, copy, monkeypatch):
    from transformers import CLIPTextModel

    called = list[str]()
    monkeypatch.setattr(CLIPTextModel, "from_pretrained", lambda *_, **__: called.append("loaded"))
    change(copy / part / "config.json", num_hidden_layers=60, intermediate_size=9000)
    with pytest.raises(HostError, match="asks for"):
        load_host(copy)
    assert not called


def test_tokenizer_whose_words_do_not_fit_together_is_refused_when_it_is_loaded(copy):
    """Its exception came with the first prompt, as it was."""
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    tokenizer = {"version": "1.0", "added_tokens": [], **parts, "model": model}
    (copy / "tokenizer" / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(HostError, match="cannot be loaded"):
        load_host(copy)


@pytest.mark.parametrize(
    ("pipeline", "parts"),
    [
        ("StableDiffusion3Pipeline", {"transformer": "SD3Transformer2DModel", "text_encoder_3": "T5EncoderModel"}),
        ("FluxPipeline", {"transformer": "FluxTransformer2DModel", "text_encoder_2": "T5EncoderModel"}),
        ("Flux2Pipeline", {"transformer": "Flux2Transformer2DModel", "text_encoder": "Mistral3ForConditionalGeneration"}),
        ("ChromaPipeline", {"transformer": "ChromaTransformer2DModel", "text_encoder": "T5EncoderModel"}),
        ("ZImagePipeline", {"transformer": "ZImageTransformer2DModel", "text_encoder": "Qwen3Model"}),
        ("QwenImagePipeline", {"transformer": "QwenImageTransformer2DModel", "text_encoder": "Qwen2_5_VLForConditionalGeneration"}),
        ("PixArtSigmaPipeline", {"transformer": "PixArtTransformer2DModel", "text_encoder": "T5EncoderModel"}),
        ("Lumina2Pipeline", {"transformer": "Lumina2Transformer2DModel", "text_encoder": "Gemma2Model"}),
        ("HiDreamImagePipeline", {"transformer": "HiDreamImageTransformer2DModel", "text_encoder_4": "LlamaForCausalLM"}),
        ("SanaPipeline", {"transformer": "SanaTransformer2DModel", "text_encoder": "Gemma2Model"}),
        ("StableCascadePriorPipeline", {"prior": "StableCascadeUNet", "text_encoder": "CLIPTextModelWithProjection"}),
    ],
)  # fmt: skip
def test_load_host_of_another_familys_folder_names_its_pipeline(pipeline, parts, called, tmp_path):
    libraries = {"transformer": "diffusers", "prior": "stable_cascade"}
    index = {"_class_name": pipeline, "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    change(
        tmp_path / "model_index.json",
        **index,
        **{part: [libraries.get(part, "transformers"), of] for part, of in parts.items()},
    )
    with pytest.raises(HostError, match=rf"\({pipeline}\) has no UNet; only .* use the nodes in ComfyUI"):
        load_host(tmp_path)
    assert called == []


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("distilled_guidance_layer.in_proj.weight", "Chroma"),
        ("model.diffusion_model.cap_pad_token", "Z-Image"),
        ("transformer_blocks.0.img_mod.1.weight", "unknown family"),
        ("txt_norm.weight", "Qwen-Image"),
        ("cap_embedder.0.weight", "Lumina 2"),
        ("model.diffusion_model.t_block.1.weight", "PixArt"),
    ],
)
def test_load_host_of_another_familys_file_names_it(key, family, called, tmp_path):
    save_file({key: torch.zeros(1), "double_blocks.1.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(HostError, match=rf"\({family}\) has no UNet; only .* use the nodes in ComfyUI"):
        load_host(tmp_path / "model.safetensors")
    assert called == []
