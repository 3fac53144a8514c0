"""The pocket checkpoint gives the same numbers inside the real ComfyUI as in diffusers."""

import pytest

pytestmark = pytest.mark.host

LARGEST = {
    "facts": 0.0,
    "token table": 0.0,
    "context": 1e-5,
    "hidden states": 1e-5,
    "pooled": 1e-5,
    "projected text": 1e-5,
    "sigmas": 1e-4,
    "noised": 1e-6,
    "denoised": 1e-4,
    "weight": 0.0,
    "latents": 1e-5,
    "images": 1e-5,
    "image features": 1e-5,
    "trained tokens": 1e-4,
    "losses": 1e-4,
    "classifier's scores": 1e-4,
    "stock context": 1e-5,
    "stock image": 1e-4,
}


@pytest.fixture(scope="module")
def differences(in_comfyui, tmp_path_factory):
    return in_comfyui("pocket_in_comfyui.py", tmp_path_factory.mktemp("pocket"))


@pytest.mark.parametrize("part", LARGEST)
@pytest.mark.parametrize("loaded", ["inference", "plain"])
def test_agrees_with_diffusers(loaded: str, part: str, differences: dict[str, dict[str, float]]) -> None:
    assert differences[loaded].keys() == LARGEST.keys()
    assert differences[loaded][part] <= LARGEST[part]
