"""Tokens are learned for every family of checkpoints inside the real ComfyUI, with the host's own numbers."""

import pytest

pytestmark = pytest.mark.host

ENCODERS = {
    "sd15": {"clip_l": 768},
    "sd20": {"clip_h": 1024},
    "sdxl": {"clip_l": 768, "clip_g": 1280},
    "sd3": {"clip_l": 768, "clip_g": 1280},
}
IMAGE_SIZES = {"sd15": ("SD15", 512), "sd20": ("SD20", 768), "sdxl": ("SDXL", 1024), "sd3": ("SD3", 1024)}
BEYOND = "skip -9"
"""More layers than the text towers have; what that means, depends on the version of ComfyUI."""


@pytest.fixture(
    scope="module", params=["sd15", *(pytest.param(name, marks=pytest.mark.slow) for name in list(ENCODERS)[1:])]
)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def found(family, in_comfyui, tmp_path_factory):
    return in_comfyui("families_in_comfyui.py", tmp_path_factory.mktemp(family), family)


def test_text_is_encoded_as_by_the_host(found):
    for name, distances in found["text"].items():
        assert distances["context"] <= 1e-5, name
        assert distances["pooled"] <= 1e-5, name
    own = "skip -1" if found["name"].startswith("SD15") else "skip -2"
    moved = {name for name, distances in found["text"].items() if distances["moved"] > 0.1}
    assert moved - {BEYOND} == found["text"].keys() - {"plain", own, BEYOND}


def test_latents_are_denoised_as_by_the_host(found):
    for name, distances in found["denoised"].items():
        assert distances["sigmas"] == 0.0, name
        assert distances["noised"] <= 1e-5, name
        assert distances["denoised"] <= 1e-5, name
        assert (distances["moved"] > 1e-3) == (name != "plain")


def test_the_family_is_described(family, found):
    assert found["encoders"] == ENCODERS[family]
    name, size = IMAGE_SIZES[family]
    assert found["name"] in (name, f"{name} (checkpoint.ckpt)")  # hosts keep the file's name since v0.16.0
    assert found["size"] == size
    assert found["logit_normal"] == (family == "sd3")
    assert found["ascending"]


def test_only_v_prediction_is_weighed(family, found):
    """By sigma^2 + 1, at sigma 0.1, 1 and 3."""
    assert found["weight"] == pytest.approx([1.01, 2.0, 10.0] if family == "sd20" else [1.0, 1.0, 1.0])


def test_training_lowers_the_noise_error(found):
    before, after = found["errors"]
    assert found["stop_reason"] == "max_steps"
    assert after < 0.97 * before


def test_every_encoders_vectors_are_trained_along_the_slope_of_the_loss(family, found):
    assert found["trained"].keys() == found["slope"].keys() == ENCODERS[family].keys()
    assert all(moved > 0.01 for moved in found["trained"].values())
    assert found["slope"] == pytest.approx(dict.fromkeys(ENCODERS[family], 1.0), abs=0.03)


def test_text_features_do_not_need_the_padding(found):
    assert found["unpadded"] <= 1e-5


def test_encoding_text_does_not_wait_for_the_device(family, found):
    """As the host's own pooling does, by which the prompts of Stable Diffusion 3 are encoded: here two, and one."""
    assert found["lists"]["theirs"] > 0  # that it would be seen
    assert found["lists"]["ours"] == (2 * found["lists"]["theirs"] if family == "sd3" else 0)


def test_blocks_are_recomputed_one_by_one(family, found):
    """Not a row of ten, as in SDXL, of which all would be in memory at once."""
    assert found["checkpointed"]["blocks"] == (
        ["JointBlock"] if family == "sd3" else ["BasicTransformerBlock", "ResBlock"]
    )


def test_gradient_checkpointing_keeps_less_and_finds_the_same(family, found):
    assert found["checkpointed"]["apart"] <= 1e-4
    # Stable Diffusion 3's blocks are always checkpointed by the host itself
    assert found["checkpointed"]["kept"] < (1.0 if family == "sd3" else 0.7)


def test_nothing_is_changed_for_good(found):
    assert found["different"] == []


def test_a_file_loaded_once_more_is_the_same_model(found):
    assert found["fingerprints"] == {"again": True, "other CLIP": False, "other MODEL": False}
