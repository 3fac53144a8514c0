"""Unusable models inside ComfyUI are refused in one sentence; with a fitting CLIP file, tokens learn to separate images."""

import pytest

pytestmark = [pytest.mark.host, pytest.mark.slow]

FILES = {
    "no vision": "contains no vision tower; a complete CLIP model is needed",
    "no projections": "contains no visual projection, no text projection; a complete CLIP model is needed",
    "no text projection": "contains no text projection; a complete CLIP model is needed",
    "broken": "cannot be read as a CLIP model",
    "whole": "belongs to another text encoder than this checkpoint's clip_l",
    "narrow": "is for a text encoder of width 512, this CLIP's clip_l is 768 wide",
}
MODELS = {
    "SD 2's CLIP": "the CLIP (clip_h) makes text features 1024 wide, the MODEL needs them 768 wide",
    "SD 1's CLIP": "the CLIP (clip_l) makes text features 768 wide, the MODEL needs them 1024 wide",
    "SD 1's CLIP for SD 3": "the CLIP connected here (clip_l) is of another model family than the MODEL, SD3",
    "SDXL's CLIP for SD 3": "the CLIP connected here (clip_l and clip_g) is of another model family than the MODEL, SD3",
    "SD 3's CLIP for SDXL": "is of another model family than the MODEL, SDXL",
    "SD 3's VAE": "the VAE makes latents of 16 channels in 2 dimensions, the MODEL takes 4",
    "SD 1's VAE": "the VAE makes latents of 4 channels in 2 dimensions, the MODEL takes 16",
    "inpainting": "the MODEL is for inpainting or editing",
    "AuraFlow": "is of another model family than the MODEL, AuraFlow",
    "x0": "tokens can be trained for noise, v and flow prediction",
    "no tokenizer": "its text encoder t5xxl has no tokenizer that reads embedding files",
    "deaf encoder": "cannot be prompted with tokens: the text encoder t5xxl reads 0 of the 1 vectors",
}


@pytest.fixture(scope="module")
def found(in_comfyui, tmp_path_factory):
    return in_comfyui("refusals_in_comfyui.py", tmp_path_factory.mktemp("refusals"))


@pytest.mark.parametrize("file", FILES)
def test_a_clip_file_that_does_not_serve(file, found):
    assert found["files"].keys() == FILES.keys()
    assert FILES[file] in found["files"][file]
    assert "openai/clip-vit-large-patch14" in found["files"][file]  # where the right one is had


@pytest.mark.parametrize("parts", MODELS)
def test_parts_that_do_not_go_together(parts, found):
    assert found["models"].keys() == MODELS.keys()
    assert MODELS[parts] in found["models"][parts]


def test_a_clip_file_that_fits(found):
    assert found["without words"] == ""  # there is nothing to compare
    assert found["projection"] <= 1e-6
    assert found["features"] <= 1e-3  # the host rounds pixels to 256 levels
    assert found["different"] == []


def test_a_clip_file_as_openclip_writes_it(found):
    assert found["layouts"]["features"] <= 1e-5
    assert (found["layouts"]["projection"], found["layouts"]["words"]) == (0.0, 0.0)


def test_the_classification_term_alone_teaches_to_tell_images_apart(found):
    first, last = found["losses"]
    assert last < 0.95 * first
    assert found["recognised"] == [0, 1]
