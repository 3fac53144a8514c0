"""Tokens are learned for every text encoder of a family, T5 and language models included, inside the real ComfyUI."""

import pytest

pytestmark = pytest.mark.host

ENCODERS = {
    "flux": {"clip_l": 768, "t5xxl": 64},
    "sd3": {"clip_l": 768, "clip_g": 1280, "t5xxl": 4096},
    "chroma": {"t5xxl": 64},
    "pixart": {"t5xxl": 64},
    "lumina2": {"gemma2_2b": 64},
    "z-image": {"qwen3_4b": 64},
    "qwen-image": {"qwen25_7b": 64},
}
BLOCKS = {
    "flux": ["DoubleStreamBlock", "SingleStreamBlock"],
    "sd3": ["JointBlock"],
    "chroma": ["DoubleStreamBlock", "SingleStreamBlock"],
    "pixart": ["PixArtMSBlock"],
    "lumina2": ["JointTransformerBlock"],
    "z-image": ["JointTransformerBlock"],
    "qwen-image": ["QwenImageTransformerBlock"],
}
NO_FILES = ("lumina2", "qwen-image")
"""Whose stock tokenizers look up no embedding files."""


def reads_vectors(comfyui, module, key):
    """Whether ComfyUI has a tokenizer of this module whose embedding files have this key."""
    file = comfyui / "comfy" / "text_encoders" / f"{module}.py"
    return file.is_file() and f"embedding_key='{key}'" in file.read_text(encoding="utf-8")


@pytest.fixture(
    scope="module", params=["flux", *(pytest.param(name, marks=pytest.mark.slow) for name in list(ENCODERS)[1:])]
)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def found(family, comfyui, in_comfyui, tmp_path_factory):
    if family == "z-image" and not reads_vectors(comfyui, "z_image", "qwen3_4b"):
        pytest.skip("this ComfyUI has no Z-Image, or its tokenizer reads no embedding files, as those before 0.16.0")
    blocks = comfyui / "comfy" / "ldm" / "chroma" / "layers.py"
    if family == "chroma" and "addcmul_(" in blocks.read_text(encoding="utf-8"):
        pytest.skip("this ComfyUI's Chroma overwrites what gradients are computed from, and training is refused")
    if family == "qwen-image" and 'ddconfig = {"dim": 96' in (comfyui / "comfy" / "sd.py").read_text(encoding="utf-8"):
        pytest.skip("this ComfyUI has Qwen-Image's VAE in one size, which is too large for a test")
    return in_comfyui("encoders_in_comfyui.py", tmp_path_factory.mktemp(family), family)


def test_prompts_are_conditioned_as_by_the_stock_node(family, found):
    assert found["encoders"] == ENCODERS[family]
    assert found["stock"]["node"] <= 1e-5
    assert (found["stock"]["file"] <= 1e-5) == (family not in NO_FILES)
    assert found["stock"]["moved"] > 0.1  # from those of a word


def test_gradients_are_slopes_of_the_loss(family, found):
    assert found["slope"] == pytest.approx(dict.fromkeys(ENCODERS[family], 1.0), abs=0.01)


def test_training_lowers_the_noise_error(family, found):
    before, after = found["errors"]
    assert found["stop_reason"] == "max_steps"
    assert after <= 0.95 * before
    assert found["trained"].keys() == ENCODERS[family].keys()
    assert all(moved > 0.01 for moved in found["trained"].values())


def test_flow_models_train_at_logit_normal_times_of_the_hosts_schedule(family, found):
    logit_normal, noise = found["flow"]
    assert logit_normal == (family != "pixart")
    assert noise == pytest.approx(1.0, abs=0.01)  # half a step apart


def test_classes_are_reported_by_the_error_under_their_prompts(found):
    assert found["classified"] == found["labels"]


def test_tokens_in_files_draw_what_tokens_in_memory_draw(family, found):
    assert found["pictures"]["set"] == 0.0
    assert (found["pictures"]["file"] == 0.0) == (family not in NO_FILES)
    assert found["pictures"]["word"] > 0.01


def test_gradient_checkpointing_keeps_less_and_finds_the_same(family, found):
    assert found["checkpointed"]["blocks"] == BLOCKS[family]
    assert found["checkpointed"]["apart"] <= 1e-4
    # text encoders, of which SD 3's are wider than its small denoiser, keep the same with and without
    assert found["checkpointed"]["kept"] < (0.9 if family == "sd3" else 0.7)


def test_encoders_weights_are_not_kept_for_backward(found):
    assert found["kept of text"] < 0.2


def test_nothing_is_changed_for_good(found):
    assert found["different"] == []


def test_clip_classifies_by_the_models_own_encoder_or_by_the_clip_spaces(family, found):
    by_clip = found["by CLIP"]
    assert by_clip["encoder"] == ("clip_l" if "clip_l" in ENCODERS[family] else "clip_twin")
    assert all(moved > 0.01 for moved in by_clip["moved"]["both"].values())
    assert {name for name, moved in by_clip["moved"]["classification"].items() if moved > 0} == {by_clip["encoder"]}
    assert by_clip["moved"]["classification"][by_clip["encoder"]] > 0.01
    assert by_clip["losses"][1] < 0.95 * by_clip["losses"][0]
    assert by_clip["recognised"] == [0, 1]
    assert by_clip["file"] == list(ENCODERS[family])
    assert by_clip["without"] == [1, 2]  # the diffusion classifier needs no CLIP space
