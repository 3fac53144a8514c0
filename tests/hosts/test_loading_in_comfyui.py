"""Token files beside other sets' files, damaged files, and files in the wrong folder: none is lost, and each is named."""

import pytest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def found(in_comfyui, tmp_path_factory):
    return in_comfyui("loading_in_comfyui.py", tmp_path_factory.mktemp("loading"))


def test_save_tokens_replaces_an_earlier_training_of_the_same_set(found):
    first, second = found["saved"]
    assert first == second
    assert len(first[0].splitlines()) == 3


def test_save_tokens_refuses_to_replace_files_of_another_set(found):
    name, embedding, width, free = found["other"]
    assert "mine.safetensors belongs to another token set (cat, dog; clip_l 96 wide); choose another name" in name[0]
    assert (
        "cat.safetensors belongs to another token set (cat, dog; clip_l 96 wide); choose another name" in embedding[0]
    )
    assert "mine.safetensors belongs to another token set" in width[0]
    assert len(free) == 2
    assert found["replaced"] == ["cat\ndog"]


def test_save_tokens_names_embeddings_of_another_set_in_the_folder(found):
    assert "mine also contains embeddings of another set: cat, dog; move them away" in found["beside"][1]
    ((error,), _) = found["misfit"]
    assert error.startswith("error: ")
    assert "owl.safetensors: these tokens are read in different ways" in error


def test_save_tokens_takes_a_name_with_a_suffix_for_the_file_s_own(found):
    assert found["suffix"][0].endswith("x.safetensors")
    assert "x-safetensors" not in found["suffix"][0]


def test_load_tokens_of_a_folder_loads_the_good_files_and_names_the_others(found):
    names, messages = found["bad"]
    assert names == ["cat\ndog"]
    for file, reason in (("cut", "truncated"), ("none", "supported"), ("text", "supported"), ("whole", "token set")):
        (message,) = [message for message in messages if f"{file}." in message]
        assert message.startswith("MC-TI: not loaded: ")
        assert reason in message
    ((error,), _) = found["all bad"]
    assert error.startswith("error: ")
    assert "cut.safetensors: truncated" in error


def test_load_tokens_says_where_a_file_in_the_wrong_folder_belongs(found):
    (as_embedding,), (as_set,) = found["misplaced"]
    assert "whole.safetensors is a token set, not an embedding; move it to models/mcti_tokens" in as_embedding
    assert "single.safetensors is an embedding, not a token set; move it to models/embeddings" in as_set


def test_load_tokens_for_another_clip_says_which_clip_to_connect(found):
    assert found["wide"][0].endswith("connect the CLIP of a checkpoint of their family, such as SD15 (x.ckpt)")


def test_load_tokens_offers_images_that_contain_an_embedding(found):
    assert found["cards"]["images"] == ["embedding: cards/cup.webp", "embedding: cards/glass.png"]
    assert found["cards"]["folder"]
    assert "the tokens are for clip_l, 768 wide" in found["cards"]["read"][0]
