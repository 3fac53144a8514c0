"""Work after a training never loses its result."""

import re

import pytest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def found(in_comfyui, tmp_path_factory):
    return in_comfyui("samples_in_comfyui.py", tmp_path_factory.mktemp("samples"))


def test_train_draws_samples_in_every_template_that_it_trains_in(found):
    for sign, (notes, spread) in found["signs"].items():
        assert notes == [], sign
        assert spread > 0.05, sign


def test_train_whose_samples_fail_names_the_reason_and_shows_those_that_were_drawn(found):
    for drawn in (0, 1):
        for name, reason in (("memory", "a single image of 64 pixels does not fit"), ("other", "no such thing")):
            ((note,), shape, spread) = found[f"{name} {drawn}"]
            assert note.startswith(f"Samples drawn: {drawn} of 2; {reason}")
            assert len(shape) == 4
            assert (spread > 0.05) == bool(drawn)


def test_train_cancelled_while_samples_are_drawn_keeps_its_tokens_and_continues(found):
    names = []
    for ended, messages in found["cancelled"]:
        assert ended == "InterruptProcessingException"
        (message,) = messages
        names += re.findall(r"unfinished-0-and-9-more-[0-9a-f]{8}\.safetensors", message)
    assert len(set(names)) == 2  # of two trainings, none replaces the other's
    assert found["kept"] == sorted(names)
    assert found["unfinished"] == 1  # the other one was continued, finished and removed


def test_train_logs_its_summary_under_one_prefix(found):
    (line,) = found["log"]
    assert line.startswith("MC-TI: multi-class textual inversion: 10 classes")


def test_train_from_tokens_names_settings_of_new_tokens_that_are_not_used(found):
    plain, more, both = found["unused"]
    assert plain == []
    assert more == ["Not used, since the tokens of initial_tokens are trained further: num_vectors"]
    assert both == ["Not used, since the tokens of initial_tokens are trained further: num_vectors, initializer_token"]


def test_train_with_samples_and_accuracies_gives_the_same_tokens_to_the_bit(found):
    watched = found["watched"]
    assert watched["equal"] == [True, True]
    (note,) = watched["notes"]
    assert re.fullmatch(r"Held-out accuracy: step 2 \d+%, step 3 \d+%", note)
    (message,) = watched["told"]
    assert message.endswith("validation failed, training continues: no such thing")
    assert watched["cancelled"] == "InterruptProcessingException"


def test_examples_with_captions_masks_and_buckets_are_trained_with_them(found):
    beside = found["beside"]
    assert beside["summary"] == ["4 images, 2 classes", "a: 2", "b: 2"]
    assert beside["used"] == ["captions", "masks", "buckets"]
    assert beside["changed"]
    assert beside["refused"] == "ValueError"
