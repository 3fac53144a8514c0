import os
import stat

import pytest

from mcti_core.files import atomic
from mcti_core.files.atomic import write_atomically


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
    monkeypatch.setattr(atomic, "_flush_folder", flushed.append)
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
