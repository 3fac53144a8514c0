"""Moving and copying files replaces nothing, loses nothing, and can be undone."""

import json
import os
import shutil
from pathlib import Path

import pytest

from mcti_core.errors import FileError
from mcti_core.files import transfer as module
from mcti_core.files.transfer import transfer, undo

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def place(tmp_path):
    """Six images, two of them with a caption, in ``inbox/``, and where they go."""
    inbox, pairs = tmp_path / "inbox" / "deep", []
    inbox.mkdir(parents=True)
    for number in range(6):
        (inbox / f"{number}.png").write_bytes(PNG + bytes([number]) * 9)
        pairs.append((inbox / f"{number}.png", tmp_path / "sorted" / "ab"[number % 2] / f"{number}.png"))
    for number in (0, 1):
        (inbox / f"{number}.txt").write_bytes(b"a caption\r\n")
        pairs.append((inbox / f"{number}.txt", pairs[number][1].with_suffix(".txt")))
    return tmp_path, pairs, {pairs[2][1].with_suffix(".txt"): "a new caption, ä"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("move", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_undo_restores_every_byte_and_leaves_nothing(place, monkeypatch, move, links):
    root, pairs, captions = place
    before = contents(root)
    if not links:
        monkeypatch.setattr(module.os, "link", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    listed = transfer(pairs, captions, root / "sorted", move=move)
    assert {path.name for path in (root / "sorted").iterdir()} == {"a", "b", "undo-1.json"}
    assert contents(root / "inbox") == ({} if move else {name.removeprefix("inbox/"): b for name, b in before.items()})
    assert (root / "sorted" / "a" / "2.txt").read_text(encoding="utf-8") == "a new caption, ä"
    shutil.rmtree(root / "inbox" / "deep") if move else None  # an empty folder, which may be gone
    assert undo(listed) == (len(pairs) + 1, [])
    assert contents(root) == before
    assert not any((root / "sorted").iterdir())


@pytest.mark.parametrize("move", [True, False])
@pytest.mark.parametrize("cut", range(6))
@pytest.mark.parametrize("links", [True, False])
def test_killed_at_any_moment_loses_nothing_and_is_undone(place, monkeypatch, move, cut, links):
    """The process ends after ``cut`` system calls: between a file's second name and the loss of its first, too."""
    root, pairs, captions = place
    before, calls = contents(root / "inbox"), []

    def counted(plain):
        def call(*given, **named):
            calls.append(1)
            if len(calls) > cut:
                raise KeyboardInterrupt
            if plain is os.link and not links:
                raise PermissionError
            return plain(*given, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "link", counted(os.link))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        patch.setattr(module.shutil, "copy2", counted(shutil.copy2))
        with pytest.raises(KeyboardInterrupt):
            transfer(pairs, captions, root / "sorted", move=move)
    kept = {Path(name).name: data for name, data in contents(root).items()}
    assert {Path(name).name: data for name, data in before.items()}.items() <= kept.items()
    _, problems = undo(root / "sorted" / "undo-1.json")
    assert problems == []
    assert contents(root / "inbox") == before


def test_a_taken_place_is_never_replaced(place):
    root, pairs, _ = place
    pairs[3][1].parent.mkdir(parents=True)
    pairs[3][1].write_bytes(b"somebody's")
    with pytest.raises(FileError, match="already exists"):
        transfer(pairs, {}, root / "sorted", move=True)
    assert pairs[3][0].is_file()
    _, problems = undo(root / "sorted" / "undo-1.json")
    assert len(problems) == 1
    assert pairs[3][1].read_bytes() == b"somebody's"
    assert all(source.is_file() for source, _ in pairs)


def test_undo_keeps_what_was_changed_meanwhile_and_the_list(place):
    root, pairs, captions = place
    listed = transfer(pairs, captions, root / "sorted", move=True)
    pairs[0][0].write_bytes(b"a new image")
    pairs[2][1].with_suffix(".txt").write_text("edited by hand")
    done, problems = undo(listed)
    assert (done, len(problems)) == (len(pairs) - 1, 2)
    assert pairs[0][0].read_bytes() == b"a new image"
    assert pairs[0][1].is_file()
    assert listed.is_file()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_undo_does_not_wait_for_a_pipe(place):
    root, pairs, _ = place
    caption = pairs[2][1].with_suffix(".txt")
    listed = transfer(pairs, {caption: ""}, root / "sorted", move=True)
    caption.unlink()
    os.mkfifo(caption)  # as long as the caption
    done, problems = undo(listed)
    assert done == len(pairs)
    assert "named pipe" in problems[0]


def test_undo_goes_on_after_a_path_with_half_a_character(place):
    root, pairs, captions = place
    listed = transfer(pairs, captions, root / "sorted", move=True)
    record = json.loads(listed.read_text())
    record["files"][0][0] = "\ud800.png"
    listed.write_text(json.dumps(record))
    assert undo(listed)[0] == len(pairs)
    assert pairs[0][1].is_file()
    assert all(source.is_file() for source, _ in pairs[1:])


def test_undo_of_copies_whose_originals_are_gone_keeps_them(place):
    root, pairs, _ = place
    listed = transfer(pairs, {}, root / "sorted", move=False)
    pairs[0][0].unlink()
    assert len(undo(listed)[1]) == 1
    assert pairs[0][1].is_file()


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        ("keys", "a/keys", None),  # another kind of file
        ("new.sh", "a/0.png", None),  # an image under another kind's name
        ("new.png", "../inbox/0.png", None),
        ("new.png", "{root}/inbox/0.png", None),
        (None, "../inbox/0.txt", "a caption\r\n"),
        (None, "a/keys", "secret"),
        (None, "a/large.txt", "secret"),
        ("new.png", "link/0.png", None),
        ("new.py", "a/0.py", None),  # an image's first bytes, and a program
        ("sorted/a/0.png", "a/0.png", None),
        ("sorted/b/../a/0.png", "a/0.png", None),
    ],
)
def test_undo_list_of_others_moves_and_removes_nothing_else(place, source, target, text):
    root, _, _ = place
    (root / "inbox" / "0.png").write_bytes(PNG)
    (root / "inbox" / "0.txt").write_bytes(b"a caption\r\n")
    (root / "sorted" / "a").mkdir(parents=True)
    (root / "sorted" / "a" / "keys").write_text("secret")
    (root / "sorted" / "a" / "0.png").write_bytes(PNG)
    (root / "sorted" / "b").mkdir()
    (root / "sorted" / "a" / "0.py").write_bytes(b"BM=1")
    (root / "sorted" / "a" / "large.txt").touch()
    os.truncate(root / "sorted" / "a" / "large.txt", 2**33)
    (root / "sorted" / "link").symlink_to(root / "inbox")
    target = target.replace("{root}", str(root))
    files = [[str(root / source), target]] if source else []
    record = {"undo": "moved", "files": files, "captions": [] if source else [[target, text]]}
    record["folder"] = (root / "sorted").stat().st_ino
    listed = root / "sorted" / "undo-1.json"
    listed.write_text(json.dumps(record))
    before = names(root)
    done, problems = undo(listed)
    assert (done, len(problems)) == (0, 1)
    assert names(root) == before


@pytest.mark.parametrize("folder", [{}, {"folder": 1}, {"folder": "1"}])
@pytest.mark.parametrize(("source", "target"), [("home/new.png", "a/0.png"), ("home/same.png", "a/0.png")])
def test_undo_list_that_came_with_its_folder_is_refused(tmp_path, folder, source, target):
    """It could name any place for the files beside it."""
    for place in ("home", "set/a"):
        (tmp_path / place).mkdir(parents=True)
    for image in ("home/same.png", "set/a/0.png"):
        (tmp_path / image).write_bytes(PNG)
    record = {"undo": "moved", "files": [[str(tmp_path / source), target]], "captions": [], **folder}
    (tmp_path / "set" / "undo-1.json").write_text(json.dumps(record))
    before = names(tmp_path)
    with pytest.raises(FileError):
        undo(tmp_path / "set" / "undo-1.json")
    assert names(tmp_path) == before


def test_a_copied_folder_keeps_its_files_and_a_renamed_one_is_undone(place):
    root, pairs, _ = place
    transfer(pairs, {}, root / "sorted", move=True)
    shutil.copytree(root / "sorted", root / "copied")
    before = names(root)
    with pytest.raises(FileError, match="another folder"):
        undo(root / "copied" / "undo-1.json")
    assert names(root) == before
    (root / "sorted").rename(root / "renamed")
    assert undo(root / "renamed" / "undo-1.json") == (len(pairs), [])


def test_a_list_too_long_to_be_read_again_is_refused_before_the_first_file(place, monkeypatch):
    root, pairs, _ = place
    monkeypatch.setattr(module, "_MAX_LIST_BYTES", 100)
    with pytest.raises(FileError, match="fewer"):
        transfer(pairs, {}, root / "sorted", move=True)
    assert all(source.is_file() for source, _ in pairs)


@pytest.mark.parametrize(
    "content", ["", "{}", "[" * 9999, '{"undo": "moved", "files": [["a"]], "captions": []}', '{"undo": "moved", "files": [["\\u0000", "x"]], "captions": []}']
)  # fmt: skip
def test_undo_of_another_file_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(FileError, match="is not a list of transfers"):
        undo(tmp_path / "x.json")
