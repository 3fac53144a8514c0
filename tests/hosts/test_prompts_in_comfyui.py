"""Learned tokens in ComfyUI's prompts: tokens in memory equal embedding files, and accept more spellings."""

import pytest

pytestmark = [pytest.mark.host, pytest.mark.slow]

ENCODERS = ["clip_l", "clip_l and clip_g"]


@pytest.fixture(scope="module")
def both(in_comfyui, tmp_path_factory):
    return in_comfyui("prompts_in_comfyui.py", tmp_path_factory.mktemp("prompts"))


@pytest.fixture(params=ENCODERS)
def found(request, both):
    return both[request.param]


def test_tokens_in_memory_are_those_in_files(found):
    assert set(found["as files"].values()) == {0.0}
    assert set(found["without a folder"].values()) == {0.0}
    unmoved = {name for name, moved in found["moved"].items() if not moved > 0.1}
    assert unmoved == {"not a token", "not a token, comma"}


def test_what_follows_a_name_is_not_part_of_it(found):
    assert found["as spaced"] == dict.fromkeys(found["as spaced"], 0.0)


def test_sets_add_up_and_do_not_see_each_other(found):
    assert found["sets"] == dict.fromkeys(found["sets"], 0.0)
    assert found["two sets differ by"] > 0.1


def test_the_clip_that_was_given_is_as_before(found):
    assert found["different"] == []


def test_tokens_cannot_be_changed_through_a_prompt(found):
    assert found["copy"]


@pytest.mark.parametrize("encoders", ENCODERS)
def test_tokens_of_another_model_are_refused(encoders, both):
    wide = {"clip_l": "clip_l, 96 wide", "clip_l and clip_g": "clip_l, 768 wide and clip_g, 1280 wide"}[encoders]
    narrow = {"clip_l": "clip_l, 64 wide", "clip_l and clip_g": "clip_l, 64 wide and clip_g, 64 wide"}[encoders]
    has = f"the CLIP connected here has {wide}; connect the CLIP of a checkpoint of their family"
    assert both[encoders]["refused"] == {
        "width": f"the tokens are for {narrow}, {has}",
        "encoders": f"the tokens are for {wide} and clip_h, 1024 wide, {has}",
    }
