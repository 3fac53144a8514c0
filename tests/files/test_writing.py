"""Foreign files are neither replaced nor removed; files are written completely or not at all."""

import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from mcti_core.errors import FileError
from mcti_core.files import writing
from mcti_core.files.provenance import write_json, write_text
from mcti_core.files.writing import (
    check_writable,
    delete_own,
    refuse_foreign,
    refuse_lookalikes,
    refuse_to_replace,
    set_aside,
    write_atomically,
    write_own,
)
from mcti_core.tokens.io import export_embedding, refuse_foreign_tokens, save_tokens
from mcti_core.tokens.token_set import TokenSet


def is_own(path):
    return path.is_file() and path.read_bytes().startswith(b"own")


def own(path):
    path.write_bytes(b"own new")


def test_write_own_replaces_its_own_file_and_makes_folders(tmp_path):
    path = write_own(tmp_path / "new" / "x", own, is_own)
    write_own(path, lambda file: file.write_bytes(b"own again"), is_own)
    assert path.read_bytes() == b"own again"


@pytest.mark.parametrize("what", ["file", "empty", "folder", "link", "dangling", "pipe"])
def test_write_own_leaves_what_is_not_its_own(what, tmp_path):
    path, elsewhere = tmp_path / "x", tmp_path / "elsewhere"
    own(elsewhere)
    if what == "file":
        path.write_bytes(b"theirs")
    elif what == "empty":
        path.touch()
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(elsewhere if what == "link" else tmp_path / "nowhere")
    before = {file: file.lstat() for file in tmp_path.iterdir()}
    with pytest.raises(FileError, match="move it away"):
        write_own(path, own, is_own)
    assert not delete_own(path, is_own)
    assert {file: file.lstat().st_ino for file in tmp_path.iterdir()} == {f: s.st_ino for f, s in before.items()}


def test_delete_own_removes_its_own_file_only_inside_root(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    root.mkdir(), other.mkdir()
    own(other / "x")
    (root / "ln").symlink_to(other, target_is_directory=True)
    assert not delete_own(root / "ln" / "x", is_own, root=root)
    assert delete_own(other / "x", is_own)
    assert not delete_own(other / "x", is_own)


@pytest.mark.parametrize("place", ["ln/x", "../other/x", "ln/deeper/x"])
def test_write_own_does_not_leave_root_by_a_link(place, tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    root.mkdir(), other.mkdir()
    (root / "ln").symlink_to(other, target_is_directory=True)
    with pytest.raises(FileError, match="outside"):
        write_own(root / place, own, is_own, root=root)
    assert not list(other.iterdir())


def test_write_own_takes_a_root_that_is_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk", target_is_directory=True)
    write_own(tmp_path / "models" / "pets" / "x", own, is_own, root=tmp_path / "models")
    assert (tmp_path / "disk" / "pets" / "x").exists()


@pytest.mark.parametrize("theirs", ["cat.pt", "cat.bin", "CAT.safetensors", "Cat.PT", "cat.safetensors"])
def test_embedding_beside_a_user_s_own_is_refused(theirs, tmp_path):
    save_file({"emb_params": torch.ones(1, 4)}, tmp_path / theirs)
    with pytest.raises(FileError, match="was not written by MC-TI"):
        refuse_foreign_tokens([tmp_path / "cat.safetensors"], sets=False)


def test_embedding_beside_other_files_and_its_own_is_written(tmp_path):
    save_tokens(TokenSet(("a", "b"), {"clip_l": torch.ones(2, 1, 4)}), tmp_path / "CAT")
    (tmp_path / "cat.txt").touch()
    (tmp_path / "cats.pt").touch()
    refuse_foreign_tokens([tmp_path / "cat.safetensors"], sets=False)
    refuse_lookalikes([tmp_path / "x"], [tmp_path / "nowhere"], is_own)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CAT.safetensors", "cat.txt", "cats.pt"]


def test_refuse_foreign_tokens_of_many_paths_lists_a_folder_once(tmp_path, monkeypatch):
    listed = []
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or [])
    refuse_foreign_tokens(
        [tmp_path / f"{number}.safetensors" for number in range(50)],
        sets=False,
        more_folders=[tmp_path, tmp_path / "x"],
    )
    assert listed == [tmp_path, tmp_path / "x"]


@pytest.mark.parametrize("is_set", [True, False])
def test_token_set_and_embedding_of_the_same_name_do_not_replace_each_other(is_set, tmp_path):
    tokens, path = TokenSet(("cat",), {"clip_l": torch.ones(1, 1, 4)}), tmp_path / "cat.safetensors"
    writers = [lambda: export_embedding(tokens, 0, tmp_path), lambda: save_tokens(tokens, path)]
    writers[is_set]()
    writers[is_set]()
    refuse_foreign_tokens([path], sets=is_set)
    before, kind = path.read_bytes(), "a token set" if is_set else "an embedding"
    for write in (writers[not is_set], lambda: refuse_foreign_tokens([path], sets=not is_set)):
        with pytest.raises(FileError, match=rf"cat\.safetensors is {kind}, which this would replace; choose another"):
            write()
    assert path.read_bytes() == before


def test_set_aside_never_replaces(tmp_path):
    for number in range(3):
        (tmp_path / "x").write_bytes(b"%d" % number)
        set_aside(tmp_path / "x")
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert kept == {"x.unusable": b"0", "x.unusable-2": b"1", "x.unusable-3": b"2"}


def test_refuse_foreign_creates_nothing(tmp_path):
    refuse_foreign(tmp_path / "a" / "b" / "c", is_own, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    assert write_atomically(path, lambda file: file.write_text("one")) == path
    write_atomically(str(path), lambda file: file.write_text("two"))
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("failure", [OSError("disk full"), ValueError("bad"), KeyboardInterrupt()])
def test_failure_leaves_the_old_file_and_no_other(tmp_path, failure):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(file):
        file.write_text("half of the n")
        raise failure

    with pytest.raises(type(failure)):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_failure_to_replace_leaves_no_other_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"folder"):
        write_atomically(tmp_path / "folder", lambda file: file.write_text("x"))
    assert os.listdir(tmp_path) == ["folder"]


def test_content_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("sync"), sync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b))[1])
    write_atomically(tmp_path / "file", lambda file: file.write_bytes(b"x"))
    assert order[:2] == ["sync", "replace"]


def test_new_folders_are_on_disk_too(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(writing, "_flush_folder", flushed.append)
    write_atomically(tmp_path / "new" / "folder" / "file", lambda file: file.write_bytes(b"x"))
    assert set(flushed) == {tmp_path / "new" / "folder", tmp_path / "new", tmp_path}
    flushed.clear()
    write_atomically(tmp_path / "new" / "file", lambda file: file.write_bytes(b"x"))
    assert flushed == [tmp_path / "new"]


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").touch()

    def private(file):
        file.write_bytes(b"x")
        file.chmod(0o600)

    path = write_atomically(tmp_path / "file", private)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


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
    [PermissionError(13, "Permission denied"), OSError(28, "No space left"), OSError(30, "Read-only file system")],
)
def test_check_writable_tries_to_write(tmp_path, monkeypatch, error):
    """Not ``os.access``, by which root may write anywhere, and which knows of no full disk."""

    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(writing, "open", refuse, raising=False)
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
