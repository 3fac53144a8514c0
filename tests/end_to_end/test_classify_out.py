"""``mcti classify --output``: answers for very many images, interrupted and resumed."""

import io
import json
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcti_core import distributed
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.cli import classify as classify_command
from mcti_core.cli.console import set_up_streams
from mcti_core.cli.results_file import ResultsFile
from mcti_core.data.image_stream import ImagePaths
from mcti_core.distributed import DistributedContext
from mcti_core.escaping import escaped

from ..fake_processes import Beside
from .command_line import messages, run
from .kill_and_resume import write_examples

IMAGES = 19


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``examples/``, ``images/`` of which the last cannot be read, and tokens."""
    path = tmp_path_factory.mktemp("things")
    some = sorted(write_examples(path / "examples").glob("*/*.png"))
    (path / "images" / "deeper").mkdir(parents=True)
    for number in range(IMAGES):
        shutil.copy(some[number * 5 % len(some)], path / "images" / f"{number:02d}.png")
    (path / "images" / f"{IMAGES - 1}.png").write_bytes(b"no picture")
    shutil.copy(some[0], path / "images" / "deeper" / "a.png")
    assert run(f"train {path / 'examples'} --output-dir {path / 'trained'} --steps 3 --batch-size 3") == 0
    return path


def images_and_tokens(folder):
    return f"classify {folder / 'images'} --tokens {folder / 'trained'}"


@pytest.fixture
def classify(folder, tmp_path):
    """Classifies into a file; returns the exit code."""

    def call(options="", out="answers.jsonl"):
        return run(f"{images_and_tokens(folder)} --output {tmp_path / out} --batch-size 4 {options}")

    return call


@pytest.fixture
def broken(classify, tmp_path, monkeypatch):
    """The answers of two batches, and the beginning of a line."""
    plain, calls = ClipClassifier.scores, []

    def interrupted(self, images):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(ClipClassifier, "scores", interrupted)
        assert classify() == 130
    path = tmp_path / "answers.jsonl"
    assert len(path.read_bytes().splitlines()) == 8
    with open(path, "ab") as file:
        file.write(b'{"image": "cut o')
    return path


def told(capsys):
    """What was said, but for the folder that is not looked into."""
    return [line for line in messages(capsys) if "--recursive includes" not in line]


def test_classify_to_a_file_writes_what_it_prints(classify, folder, tmp_path, capsys):
    assert classify("--top 2") == 1
    assert f"{IMAGES} answers in" in capsys.readouterr().out
    assert run(f"{images_and_tokens(folder)} --json --batch-size 4 --top 2") == 1
    printed = capsys.readouterr()
    *readable, last = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert printed.out.splitlines() == readable
    record = json.loads(last)
    assert set(record) == {"image", "error"}
    assert Path(record["image"]).name == f"{IMAGES - 1}.png"
    skipped, error = printed.err.splitlines()
    assert skipped.startswith("mcti: 1 folder skipped: --recursive includes images in folders (")
    assert error == f"mcti: {record['error']}"
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


def test_classify_resume_answers_only_the_remaining_images(classify, broken, tmp_path, monkeypatch, capsys):
    plain, batches = ClipClassifier.scores, []

    def counted(self, images):
        batches.append(len(images))
        return plain(self, images)

    assert classify(out="whole.jsonl") == 1
    capsys.readouterr()
    monkeypatch.setattr(ClipClassifier, "scores", counted)
    assert classify("--resume") == 1
    assert told(capsys) == ["mcti: resuming after 8 images"]
    assert batches == [4, 4, 2]
    assert broken.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "whole.jsonl"]


def test_classify_resume_with_answers_for_unlisted_images_is_refused(classify, broken, capsys):
    lines = broken.read_bytes().splitlines(keepends=True)
    broken.write_bytes(b"".join([*lines[:3], lines[3].replace(b'{"image": "', b'{"image": "elsewhere/'), *lines[4:]]))
    capsys.readouterr()
    assert classify("--resume") == 1
    (line,) = told(capsys)
    assert "contains answers for images that are not in the list (elsewhere/" in line
    assert "--restart" in line


def test_classify_over_existing_answers_is_refused(classify, broken, tmp_path, capsys):
    before = broken.read_bytes()
    capsys.readouterr()
    assert classify() == 1
    (line,) = told(capsys)
    assert all(way in line for way in ("--resume", "--restart", "another --output"))
    assert broken.read_bytes() == before
    assert classify("--restart --top 3") == 1
    assert len(json.loads(broken.read_text().splitlines()[0])["top"]) == 3
    capsys.readouterr()
    assert classify("--resume") == 1  # it is finished
    (line,) = told(capsys)
    assert "already exists and is complete, so there is nothing to resume" in line
    assert "--restart" in line


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ("--top 2", "top was 1, is 2"), ("--threshold 0.5", "threshold was 0.0, is 0.5"), ("--method hybrid", "method was clip, is hybrid"),
        ("--recursive", "number of images was 19, is 20"), ("--dtype bf16", "different model"),
    ],
)  # fmt: skip
def test_classify_resume_with_other_options_is_refused(classify, broken, capsys, options, difference):
    before = broken.read_bytes()
    capsys.readouterr()
    assert classify(f"--resume {options}") == 1
    (line,) = told(capsys)
    assert difference in line
    assert "--restart" in line
    assert broken.read_bytes() == before


def test_classify_resume_with_other_tokens_is_refused(folder, broken, capsys):
    other = broken.parent / "other"
    assert run(f"train {folder / 'examples'} --output-dir {other} --steps 1") == 0
    capsys.readouterr()
    assert run(f"classify {folder / 'images'} --tokens {other} --output {broken} --batch-size 4 --resume") == 1
    (line,) = told(capsys)
    assert "different set of tokens" in line


def test_classify_resume_without_answers_starts_from_the_beginning(classify, capsys):
    assert classify("--resume") == 1
    assert told(capsys) == ["mcti: there are no unfinished answers; starting from the beginning"]


def test_classify_into_an_empty_file_writes_to_it(classify, broken, tmp_path):
    assert classify("--resume") == 1
    whole = broken.read_bytes()
    broken.write_bytes(b"")  # as programs make them that choose the name
    assert classify() == 1
    assert broken.read_bytes() == whole


def test_classify_recursive_includes_subfolders(classify, tmp_path):
    assert classify("--recursive") == 1
    records = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(records) == IMAGES + 1
    assert records[-1]["image"].endswith("a.png")


@pytest.mark.parametrize("option", ["--resume", "--restart"])
def test_classify_resume_or_restart_without_output_is_refused(folder, option, capsys):
    assert run(f"{images_and_tokens(folder)} {option}") == 1
    (line,) = told(capsys)
    assert "--output" in line


def test_classify_by_several_processes_without_output_is_refused(folder, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "launched", lambda **options: DistributedContext(0, 2))
    assert run(images_and_tokens(folder)) == 1
    (line,) = told(capsys)
    assert "2 processes" in line
    assert "--output" in line


def test_classify_resume_by_two_processes_follows_the_list_of_the_first(
    classify, broken, tmp_path, monkeypatch, capsys
):
    """Of a shared folder the second may see less: had it decided for itself, some were answered twice and others never."""
    assert classify(out="whole.jsonl") == 1
    capsys.readouterr()
    whole = (tmp_path / "whole.jsonl").read_bytes()
    broken.with_name("answers.jsonl.part-00001").write_bytes(b"".join(whole.splitlines(keepends=True)[16:]))
    told, meeting, own, lock = [None, None], threading.Barrier(2), threading.local(), threading.Lock()
    plain_answered, plain_score, batches = ResultsFile.answered, ClipClassifier.scores, []

    def lagging(self):
        return plain_answered(self) if own.index == 0 else (set(), 0, 0)

    def counted(self, images):
        batches.append(len(images))
        with lock:
            return plain_score(self, images)

    def locked(function):  # transformers changes PyTorch's default number format while it loads, for all threads
        def call(*arguments, **named):
            with lock:
                return function(*arguments, **named)

        return call

    def process(index):
        own.index = index
        try:
            return classify("--resume")
        except BaseException:
            meeting.abort()
            raise

    monkeypatch.setattr(
        distributed, "launched", lambda **options: Beside(own.index, 2, local_count=2, told=told, meeting=meeting)
    )
    for name in ("host_of", "calibrated_classifier"):
        monkeypatch.setattr(classify_command, name, locked(getattr(classify_command, name)))
    monkeypatch.setattr(ResultsFile, "answered", lagging)
    monkeypatch.setattr(ClipClassifier, "scores", counted)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(process, range(2))) == [1, 1]
    assert batches == [4, 4]
    assert sorted(broken.read_bytes().splitlines()) == sorted(whole.splitlines())
    captured = capsys.readouterr()
    assert "images that could not be read: 1\n" in captured.out
    assert captured.err.count("mcti: resuming after 11 images") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "whole.jsonl"]


def test_classify_counts_images_once_for_any_batch_size(classify, monkeypatch):
    """Counting adds up all folders."""
    plain, calls = ImagePaths.__len__, []
    monkeypatch.setattr(ImagePaths, "__len__", lambda self: calls.append(1) or plain(self))
    counts = []
    for batch in ("1", "19"):
        calls.clear()
        assert classify(f"--restart --batch-size {batch}") == 1
        counts.append(len(calls))
    assert counts[0] == counts[1]


@pytest.fixture
def no_text(folder, tmp_path):
    """An image whose name is not valid UTF-8."""
    path = tmp_path / "images" / os.fsdecode(b"caf\xe9.png")
    path.parent.mkdir()
    try:
        shutil.copy(folder / "images" / "00.png", path)
    except OSError:
        pytest.skip("here all names of files are valid UTF-8")
    return path


def test_classify_escapes_a_name_that_is_not_utf8(folder, no_text, tmp_path, capsys):
    command = f"classify {no_text.parent} --tokens {folder / 'trained'}"
    escaped = str(no_text.parent / "caf\\udce9.png")
    assert run(command) == 0
    assert capsys.readouterr().out.startswith(f"{escaped}\t")
    assert run(f"{command} --json") == 0
    line = capsys.readouterr().out
    assert f'"{escaped}"' in line
    assert json.loads(line)["image"] == str(no_text)
    out = tmp_path / os.fsdecode(b"r\xe9ponses.jsonl")
    assert run(f"{command} --output", out) == 0
    assert "1 answers in " in capsys.readouterr().out
    assert out.read_text(encoding="utf-8") == line


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "é 猫 \\udce9"), ("cp1252", "é \\u732b \\udce9"), ("ascii", "\\xe9 \\u732b \\udce9")],
)
def test_set_up_streams_escapes_what_the_encoding_lacks(encoding, shown, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", output)
    set_up_streams()
    print(escaped("é 猫 \udce9"), end="", flush=True)
    assert output.buffer.getvalue().decode(encoding) == shown


def test_convert_by_several_processes_is_refused(folder, tmp_path, monkeypatch, capsys):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert run(f"convert {folder / 'trained'} --output {tmp_path / 'x'} --format set") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mcti (process 1): only train, classify, evaluate and benchmark")
    assert not list(tmp_path.iterdir())
