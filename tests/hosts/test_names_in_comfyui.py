"""Token names in ComfyUI's prompts and nodes, in every supported spelling."""

import json
import unicodedata

import pytest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def named(in_comfyui, tmp_path_factory):
    return in_comfyui("names_in_comfyui.py", tmp_path_factory.mktemp("names"))


def test_name_in_every_spelling_is_found(named):
    assert named["missed"] == []


def test_names_side_by_side_are_all_found(named):
    assert [prompt for prompt, (found, wanted) in named["together"].items() if found != wanted] == []


def test_name_close_to_a_tokens_is_logged(named):
    for prompt, (said, meant) in named["logged"].items():
        assert len(said) == (meant is not None), prompt
        assert all(text.endswith(f"did you mean embedding:{meant}?") for text in said)


def test_name_without_embedding_is_logged_where_it_can_be_no_word(named):
    for prompt, (said, names) in named["words"].items():
        assert sorted(said) == [
            f"a prompt contains {n} as words; write embedding:{n} for the learned token" for n in names
        ], prompt


def test_weight_without_brackets_is_logged(named):
    for prompt, (said, name) in named["weights"].items():
        expected = f"a prompt has a weight after embedding:{name} without brackets; write (embedding:{name}:1.2)"
        assert said == ([expected] if name else []), prompt


def test_token_prompts_name_each_class_wherever_the_slot_is(named):
    for template, found in named["nodes"]["prompts"].items():
        assert found == [[index] * template.count("{}") for index in range(len(named["names"]))], template


def test_route_takes_labels_and_names_in_any_form_and_no_unrecognised_image_for_a_class(named):
    """The labels are Ýr, (unknown), my fox, fox, fox! and unknown."""
    assert named["nodes"]["routes"] == {
        "": [0, 2, 3, 4, 5], "ýr": [0], "My-Fox": [2], "fox, MY FOX": [2, 3], "fox\nMY FOX\r\n": [2, 3], "(unknown)": [1], "Unknown": [5], "nobody": [],
    }  # fmt: skip


def test_route_logs_a_wanted_name_that_no_image_has(named):
    messages = {wanted: [text.rpartition("; ")[2] for text in said] for wanted, said in named["routed"].items()}
    yr, fox, none = "did you mean Ýr?", "did you mean fox?", "Route Images By Class: no image has the label {}"
    assert [[unicodedata.normalize("NFC", text) for text in said] for said in messages.values()] == [
        [yr], [fox, yr], [], [], [none.format("fax")], [], [none.format("nobody, no one")],
    ]  # fmt: skip


def test_text_with_very_many_marks_or_labels_takes_no_time(named):
    for what in ("prompt", "wanted", "labels"):
        assert "more than 30 combining marks on one letter" in named["slow"][what][0]
    assert [named["slow"][what][0] for what in ("many", "links", "close")] == ["", "", ""]
    assert all(seconds < 1 for _, seconds in named["slow"].values()), named["slow"]


def test_route_by_confidences_that_are_missing_or_no_numbers_is_refused(named):
    missing, broken, unneeded = named["nodes"]["refused"]
    assert missing.startswith("min_confidence is 0.5 and no confidences are connected")
    assert broken.startswith("confidences must be a number, got nan")
    assert unneeded == ""


def test_class_unknown_is_an_answer_like_others(named):
    nodes = named["nodes"]
    labels, indices, records = nodes["sure"]
    assert "unknown" in labels
    assert indices == [["Ýr", "unknown"].index(label) for label in labels]
    assert [record["unknown"] for record in json.loads(records)] == [False] * 4
    labels, indices, records = nodes["unsure"]
    assert (set(labels), set(indices)) == ({"(unknown)"}, {-1})
    assert [(record["label"], record["unknown"]) for record in json.loads(records)] == [(None, True)] * 4


def test_labels_of_two_systems_are_one_class(named):
    assert sorted(named["nodes"]["examples"].values()) == [1, 3]
    assert named["nodes"]["accuracy"] == named["nodes"]["right"]


def test_second_set_with_a_name_of_the_first_is_used_and_reported(named):
    """Not where it is the same set again, or has no name of the first."""
    fox, upper, both, others, again = named["twins"].values()
    assert (others, again) == ([[], [6]], [[], [6]])
    for (messages, drawn), place, names in ((fox, 0, ["fox"]), (upper, 0, ["FOX"]), (both, 1, ["Ýr", "fox"])):
        (message,) = messages
        assert drawn == [50 + place]
        assert f"the tokens {', '.join(f'embedding:{name}' for name in names)};" in message
