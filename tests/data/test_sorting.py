"""Label folders stay inside the target for any label, and existing names are not reused."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcti_core.data.sorting import class_folders, free_targets
from mcti_core.tokens.names import normal_form
from mcti_core.tokens.token_set import UNKNOWN

HOSTILE = ["../up", "/etc", "..", ".", "a/b", "a\\b", "C:\\x", "nul", "NUL.txt", "x\ny", "x\0y", " x", "x.", ".hidden", "@eaDir", UNKNOWN, "é", "E\u0301", "\u3164", "a" * 300, "a:b", "\ud800"]  # fmt: skip


@given(st.lists(st.one_of(st.text(min_size=1, max_size=12), st.sampled_from(HOSTILE)), min_size=1, max_size=6, unique_by=normal_form))  # fmt: skip
@example(HOSTILE)
@example(["my/cat", "my-cat", "my cat"])
def test_folder_of_any_label_is_one_level_inside_and_its_own(labels):
    folders = class_folders(labels)
    root = Path("/out/sorted")
    for folder in folders:
        assert Path(os.path.normpath(root / folder)).parent == root
        assert folder == Path(folder).name
        assert "\\" not in folder
        assert folder.isprintable()
    assert len({normal_form(folder) for folder in folders}) == len(labels)


@pytest.mark.parametrize("label", ["my cat", "猫", "old teapot, blue", "10_cat", "v1.5"])
def test_folder_of_a_plain_label_is_the_label(label):
    assert class_folders(["other", label]) == ("other", label)


def test_free_targets_number_what_is_taken_and_take_captions_along(tmp_path):
    for name in ("one/a.png", "two/a.png", "two/a.txt", "three/a.jpg", "out/cat/a.png", "out/cat/b.txt", "one/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    cat = tmp_path / "out" / "cat"
    sources = [tmp_path / name for name in ("one/a.png", "two/a.png", "three/a.jpg", "one/b.png", "out/cat/a.png")]
    pairs = [(str(s.relative_to(tmp_path)), t.name) for s, t in free_targets((s, cat) for s in sources)]
    assert pairs == [
        ("one/a.png", "a-2.png"), ("two/a.png", "a-3.png"), ("two/a.txt", "a-3.txt"), ("three/a.jpg", "a.jpg"), ("one/b.png", "b-2.png"),
    ]  # fmt: skip
