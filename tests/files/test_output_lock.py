import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcti_core.errors import FileError
from mcti_core.files import output_lock
from mcti_core.files.output_lock import lock_output

ROOT = Path(__file__).parents[2]
HOLD = "import sys, time; from mcti_core.files.output_lock import lock_output\nwith lock_output({path!r}, folder={folder}): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def held(tmp_path):
    """A folder that another process holds, and that process."""
    path = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(path=str(path), folder=True)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_lock_while_another_process_holds_it_names_that_process(held):
    path, process = held
    with (
        pytest.raises(FileError, match=rf"another run \(process {process.pid}\) is writing to .*out; wait"),
        lock_output(path, folder=True),
    ):
        raise AssertionError


def test_lock_after_kill_9_is_free(held):
    path, process = held
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (path / ".mcti.lock").exists()  # nothing removed it
    with lock_output(path, folder=True):
        pass
    assert list(path.iterdir()) == []


def test_lock_of_one_file_leaves_its_neighbour_free(tmp_path):
    with lock_output(tmp_path / "a.jsonl", folder=False), lock_output(tmp_path / "b.jsonl", folder=False):
        with pytest.raises(FileError, match="another run"), lock_output(tmp_path / "a.jsonl", folder=False):
            raise AssertionError
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["学習 🐱", "x" * 250, "with'quote"])
def test_lock_of_any_name_is_given_back_by_an_error(tmp_path, name):
    for _ in range(2):
        with pytest.raises(RuntimeError), lock_output(tmp_path / name, folder=False):
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_lock_whose_file_was_removed_by_its_holder_is_taken_anew(tmp_path, monkeypatch):
    """Between opening the file and locking it, the run before may end and remove it."""
    real, seen = output_lock._lock, []

    def slow(descriptor):
        if not seen:
            (tmp_path / ".mcti.lock").unlink()
        seen.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(output_lock, "_lock", slow)
    with lock_output(tmp_path, folder=True):
        monkeypatch.undo()
        with pytest.raises(FileError), lock_output(tmp_path, folder=True):
            raise AssertionError
    assert len(seen) == 2


def test_lock_on_a_file_system_without_locks_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    def none(descriptor):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(output_lock, "_lock", none)
    with lock_output(tmp_path, folder=True):
        assert "cannot be locked (Operation not supported)" in caplog.text


def test_lock_where_a_file_is_in_the_way_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileError, match="cannot be written"), lock_output(tmp_path / "file" / "out", folder=True):
        raise AssertionError


def test_lock_waits_for_nothing(held):
    begun = time.monotonic()
    with pytest.raises(FileError), lock_output(held[0], folder=True):
        raise AssertionError
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("kind", ["a file of others", "a link", "a folder"])
def test_lock_whose_name_is_taken_by_others_is_refused_and_changes_nothing(tmp_path, kind):
    mine, lock = tmp_path / "mine", tmp_path / "out" / ".mcti.lock"
    mine.write_text("mine")
    lock.parent.mkdir()
    if kind == "a file of others":
        lock.write_text("notes")
    elif kind == "a link":
        lock.symlink_to(mine)
    else:
        lock.mkdir()
    with (
        pytest.raises(FileError, match=r"not written by MC-TI|is a link|is not a file"),
        lock_output(lock.parent, folder=True),
    ):
        raise AssertionError
    assert mine.read_text() == "mine"
    assert lock.is_dir() or lock.read_text() in ("notes", "mine")


def test_lock_of_a_run_that_was_killed_is_taken_over(tmp_path):
    (tmp_path / ".mcti.lock").write_text("99999999")
    with lock_output(tmp_path, folder=True):
        assert (tmp_path / ".mcti.lock").read_text() == str(os.getpid())


def test_lock_in_which_nothing_was_written_leaves_no_folder(tmp_path):
    with lock_output(tmp_path / "new" / "er", folder=True):
        pass
    with lock_output(tmp_path / "file" / "x.json", folder=False):
        (tmp_path / "file" / "x.json").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
