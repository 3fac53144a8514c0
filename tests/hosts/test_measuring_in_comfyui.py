"""The nodes, too, report measurements that are worth less than they look."""

import pytest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def found(in_comfyui, tmp_path_factory):
    return in_comfyui("measuring_in_comfyui.py", tmp_path_factory.mktemp("measuring"))


def test_train_with_one_image_in_two_classes_says_so_in_its_summary(found):
    assert "1 image is in more than one class" in found["told"]
    assert "image 2 (a) and image 4 (b)" in found["told"]
    assert "more than one class" not in found["summary"]


def test_evaluate_counts_held_out_images_that_were_learned_from(found):
    assert "2 of the held-out images are the same as images that the tokens were learned from" in found["copies"]
    assert "the same as" not in found["fresh"]


def test_evaluate_at_most_is_a_random_part_and_always_the_same(found):
    everything, part, again, *whole = found["samples"]
    assert [everything, *whole] == [list(range(100))] * 3
    assert part == again == sorted(part)
    assert len(set(part)) == 5
    assert part != [0, 1, 2, 3, 4]
    assert found["rows"].startswith("4 held-out images, 2 classes")


def test_classify_logs_the_threshold_found_and_the_one_that_is_not_used(found):
    for (labels, messages), unused in zip(found["classified"], (False, True), strict=True):
        assert labels == "2 labels"
        (chosen,) = [message for message in messages if message.startswith("threshold ")]
        assert "of 4 examples reach it" in chosen
        value = chosen.split(":")[0].removeprefix("threshold ")
        told = f"MC-TI: threshold 0.9 is not used, since calibrate_threshold chose {value}"
        assert (told in messages) == unused


def test_classify_without_a_model_names_the_inputs_to_connect(found):
    assert found["nothing"] == ["there is nothing to classify with; connect clip_space, or model and vae"] * 2
