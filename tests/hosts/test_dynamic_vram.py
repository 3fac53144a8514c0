"""ComfyUI's dynamic VRAM gives the static loader's tokens, images and answers, wherever the weights are.

Dynamic VRAM is emulated on the CPU (``dynamic_vram.py``).
"""

import re

import pytest
import torch

pytestmark = pytest.mark.host

FAMILIES = [
    "pocket",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd15", "sd20", "sdxl", "sd3", "flux", "z-image")),
]
TOLERANCE = 1e-5
"""Largest difference over the largest number."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def found(family, comfyui, in_comfyui, tmp_path_factory):
    version = re.search(r"(\d+)\.(\d+)", (comfyui / "comfyui_version.py").read_text())
    if (int(version[1]), int(version[2])) < (0, 33):
        pytest.skip(f"the emulation of dynamic VRAM is of ComfyUI 0.33.0 and newer, this is {version[0]}")
    folder = tmp_path_factory.mktemp(family)
    said = {mode: in_comfyui("dynamic_vram_in_comfyui.py", folder, family, mode) for mode in ("static", "dynamic")}
    numbers = {mode: torch.load(folder / f"{family}-{mode}.pt", weights_only=True) for mode in said}
    return said, numbers


def apart(a, b):
    return max(float((a[name] - b[name]).abs().max() / b[name].abs().max()) for name in b)


def test_dynamic_vram_is_what_loads_the_models(family, found):
    said, _ = found
    assert said["static"]["dynamic"] == [False, False]
    assert said["dynamic"]["dynamic"] == [family != "pocket", True]  # the pocket MODEL is small and stays where it is
    assert said["dynamic"]["evictions"] > 100
    assert said["dynamic"]["refused"] > 100


@pytest.mark.parametrize(
    "kind", ["trained", "trained with LoRA", "trained in micro-batches", "trained in checkpointed micro-batches"]
)
def test_training_under_dynamic_vram_gives_the_static_loaders_tokens(kind, found):
    _, numbers = found
    for situation, tokens in numbers["dynamic"][kind].items():
        assert apart(tokens, numbers["static"][kind]) <= TOLERANCE, situation


def test_no_page_stays_pinned(found):
    said, _ = found
    assert said["dynamic"]["pinned"] == 0


def test_a_lora_moves_the_tokens(found):
    _, numbers = found
    assert apart(numbers["static"]["trained with LoRA"], numbers["static"]["trained"]) > 1e-3


@pytest.mark.parametrize("kind", ["sampled", "sampled with LoRA", "classified"])
def test_sampling_and_classifying_under_dynamic_vram_give_the_static_loaders_numbers(kind, found):
    _, numbers = found
    for situation, made in numbers["dynamic"][kind].items():
        assert apart({"": made}, {"": numbers["static"][kind]}) <= TOLERANCE, situation


def test_fingerprint_does_not_depend_on_where_weights_are(found):
    said, _ = found
    assert set(said["dynamic"]["fingerprints"]) == set(said["static"]["fingerprints"])


def test_training_without_protection_is_refused(found):
    said, _ = found
    assert "the gradients are wrong" in said["dynamic"]["unprotected"]
