"""ComfyUI's models are the same before and after any session, object by object and bit by bit."""

import pytest

pytestmark = pytest.mark.host

WAYS = {
    "training": "well",
    "training with gradient checkpointing": "well",
    "an error in on_step": "ZeroDivisionError",
    "cancelled": "InterruptProcessingException",
    "cancelled in the VAE": "InterruptProcessingException",
    "not loaded": "well",
    "not loaded again": "MemoryError",
    "nested": "KeyError",
    "features": "well",
    "generating": "well",
    "classifying": "well",
    "generating in on_step": "well",
    "classifying in on_step": "well",
}


@pytest.fixture(scope="module")
def found(in_comfyui):
    return in_comfyui("sessions_in_comfyui.py")


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_changed_for_good(way, found) -> None:
    assert found["ways"].keys() == WAYS.keys()
    assert found["ways"][way] == {"ended": WAYS[way], "different": [], "generated": 0.0}


@pytest.mark.parametrize("between", ["generating", "classifying", "failing to load", "decoding"])
def test_a_training_does_not_notice_what_is_done_between_its_steps(between: str, found) -> None:
    assert found["trainings"][between] == 0.0


def test_the_weights_are_those_of_models_that_nobody_used(found) -> None:
    assert found["after all"] == []
    assert found["loaded by a training"] == []
    assert found["generated after a training alone"] == 0.0


@pytest.mark.parametrize("part", ["text", "denoiser", "clip"])
def test_inside_no_weight_asks_for_gradients_or_is_of_inference_mode(part: str, found) -> None:
    asking, of_inference_mode, weights = found["gradients"][part]
    assert (asking, of_inference_mode) == (0, 0)
    assert weights > 30


def test_session_with_gradients_sets_the_hosts_mark_of_a_training_and_puts_it_back(found) -> None:
    if found["in training"][0] is None:
        pytest.skip("this ComfyUI has no comfy.model_management.in_training; it came with 0.16.0")
    assert found["in training"] == [False, True, False, False]
