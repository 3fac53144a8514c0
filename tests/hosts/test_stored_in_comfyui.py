"""Weights stored in eight or four bits train like the numbers that they encode; parts loaded one by one train like their checkpoint."""

import pytest

from .test_encoders_in_comfyui import reads_vectors

pytestmark = [pytest.mark.host, pytest.mark.slow]

FORMATS = ["float8_e4m3fn", "int8_tensorwise", "nvfp4", "mxfp8"]


@pytest.fixture(scope="module")
def found(comfyui, in_comfyui, tmp_path_factory):
    if not (comfyui / "comfy" / "quant_ops.py").is_file():
        pytest.skip("this ComfyUI has no quantised weights; they came with 0.4.0")
    return in_comfyui("stored_in_comfyui.py", tmp_path_factory.mktemp("stored"))


@pytest.mark.parametrize("name", FORMATS)
def test_training_with_quantised_weights_learns_what_their_numbers_teach(name, found):
    one = found["quantised"][name]
    if "lacking" in one:
        pytest.skip(one["lacking"])
    assert one["matrices"] == 32
    assert one["apart"] <= 1e-5
    assert one["apart, where the card multiplies in few bits"] <= 1e-5
    assert one["slope"] == pytest.approx(1.0, abs=0.03)
    assert one["classified"]


def test_training_with_weights_stored_in_eight_bits_learns_what_their_numbers_teach(found):
    one = found["stored"]["float8_e4m3fn"]
    assert one["matrices"] > 100
    assert one["apart"] <= 1e-5
    assert one["slope"] == pytest.approx(1.0, abs=0.03)
    assert one["classified"]


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_training_with_parts_loaded_one_by_one_gives_the_checkpoints_tokens(family, found):
    assert found["split"][family] <= 1e-5


@pytest.fixture(scope="module", params=["chroma", "z-image"])
def family(request, comfyui, in_comfyui):
    """T5 and Qwen3, with their diffusion models."""
    if "t5_quantization_metadata" not in (comfyui / "comfy" / "text_encoders" / "sd3_clip.py").read_text(
        encoding="utf-8"
    ):
        pytest.skip("this ComfyUI loads no quantised text encoders")
    if request.param == "z-image" and not reads_vectors(comfyui, "z_image", "qwen3_4b"):
        pytest.skip("this ComfyUI has no Z-Image, or its tokenizer reads no embedding files, as those before 0.16.0")
    return in_comfyui("stored_families_in_comfyui.py", request.param)


def test_other_families_with_weights_in_eight_bits_learn_what_their_numbers_teach(family):
    stored, quantised = family["stored"], family["quantised"]
    assert stored["weights"] > 20
    assert quantised["matrices"] >= 14
    for one in (stored, quantised):
        assert one["apart"] <= 1e-5
        assert list(one["slope"].values()) == pytest.approx([1.0], abs=0.01)
