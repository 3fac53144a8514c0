"""Foreign files are neither replaced nor removed."""

import os

import pytest
import torch
from safetensors.torch import save_file

from mcti_core.errors import FileError
from mcti_core.files.ownership import delete_own, refuse_foreign, refuse_foreign_twins, set_aside, write_own
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
    refuse_foreign_twins([tmp_path / "x"], [tmp_path / "nowhere"], is_own)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CAT.safetensors", "cat.txt", "cats.pt"]


def test_refuse_foreign_tokens_of_many_paths_lists_a_folder_once(tmp_path, monkeypatch):
    listed = []
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or [])
    refuse_foreign_tokens(
        [tmp_path / f"{number}.safetensors" for number in range(50)], sets=False, twins=[tmp_path, tmp_path / "x"]
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
