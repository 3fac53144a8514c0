import os

import pytest

from mcti_core.errors import FileError
from mcti_core.files import outputs
from mcti_core.files.outputs import check_writable, refuse_to_replace
from mcti_core.files.ownership import refuse_foreign
from mcti_core.files.provenance import is_marked, write_json, write_text


@pytest.mark.parametrize("folder", [".", "new", "new/deep/er", "学習 🐱"])
def test_check_writable_of_a_good_folder_leaves_nothing(tmp_path, folder):
    check_writable(tmp_path / folder, ["tokens.safetensors", "x" * 255])
    assert list(tmp_path.iterdir()) == []


def test_check_writable_where_a_file_is_names_the_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(FileError, match=r"part of the path is a file, not a folder"):
            check_writable(folder)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("names", [["x" * 256], ["a", "猫" * 86]])
def test_check_writable_of_a_name_that_is_too_long_is_refused(tmp_path, names):
    with pytest.raises(FileError, match="the path is too long"):
        check_writable(tmp_path / "new", names)
    assert list(tmp_path.iterdir()) == []


def test_check_writable_of_a_path_that_is_too_long_leaves_nothing(tmp_path):
    deep = tmp_path.joinpath(*["d" * 200] * 30)
    with pytest.raises(FileError, match="the path is too long"):
        check_writable(deep)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        OSError(28, "No space left on device"),
        OSError(30, "Read-only file system"),
    ],
)
def test_check_writable_tries_to_write(tmp_path, monkeypatch, error):
    """Not ``os.access``, by which root may write anywhere, and which knows of no full disk."""

    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(outputs, "open", refuse, raising=False)
    with pytest.raises(FileError, match=error.strerror):
        check_writable(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_check_writable_on_a_disk_with_too_little_room_says_how_much(tmp_path):
    check_writable(tmp_path, room=2**20)
    with pytest.raises(FileError, match=r"MiB left, and the results take about 1099511627776\.0; make room"):
        check_writable(tmp_path / "new", room=2**60)
    assert list(tmp_path.iterdir()) == []


def test_refuse_to_replace_counts_what_is_there(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    refuse_to_replace(paths, overwrite=False)
    for path in paths[1:]:
        path.touch()
    with pytest.raises(FileError, match=r"b \(and 1 more\) already exists; replace it with --overwrite"):
        refuse_to_replace(paths, overwrite=False)
    refuse_to_replace(paths, overwrite=True)


def test_write_on_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"x\.html cannot be written \(No space left on device\)"):
        write_text("<html>", tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [{"a": -float("inf")}]])
def test_write_json_of_no_number_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json({"x": value}, tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_refuse_foreign_of_a_name_that_is_too_long_is_a_sentence(tmp_path):
    with pytest.raises(FileError, match="cannot be written"):
        refuse_foreign(tmp_path / ("x" * 300), is_marked)
