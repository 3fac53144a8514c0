"""``mcti classify --out``: answers to very many images, broken off and gone on with."""

import json
import shutil
from pathlib import Path

import pytest

from mcti_core.classifiers import ClipClassifier
from mcti_core.cli import main
from mcti_core.processes import Processes

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
    assert main(["train", str(path / "examples"), "--out", str(path / "trained"), "--steps", "3", "--batch", "3"]) == 0
    return path


@pytest.fixture
def classify(folder, tmp_path):
    """Classifies into a file; returns the exit code."""

    def call(*options, out="answers.jsonl"):
        tokens = folder / "trained" / "tokens.safetensors"
        fixed = [
            "classify",
            str(folder / "images"),
            "--tokens",
            str(tokens),
            "--out",
            str(tmp_path / out),
            "--batch",
            "4",
        ]
        return main([*fixed, *options])

    return call


@pytest.fixture
def broken(classify, tmp_path, monkeypatch):
    """The answers of two batches, and the beginning of a line."""
    plain, calls = ClipClassifier.score, []

    def interrupted(self, images):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(ClipClassifier, "score", interrupted)
        assert classify() == 130
    path = tmp_path / "answers.jsonl"
    assert len(path.read_bytes().splitlines()) == 8
    with open(path, "ab") as file:
        file.write(b'{"image": "cut o')
    return path


def told(capsys):
    """What was said, one line each."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("mcti: ")]


def test_the_answers_are_those_that_are_printed(classify, folder, tmp_path, capsys):
    assert classify("--top", "2") == 1
    assert f"{IMAGES} answers in" in capsys.readouterr().out
    tokens = folder / "trained" / "tokens.safetensors"
    assert (
        main(["classify", str(folder / "images"), "--tokens", str(tokens), "--json", "--batch", "4", "--top", "2"]) == 1
    )
    printed = capsys.readouterr()
    *readable, last = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert printed.out.splitlines() == readable
    record = json.loads(last)
    assert set(record) == {"image", "error"}
    assert Path(record["image"]).name == f"{IMAGES - 1}.png"
    assert printed.err.splitlines() == [f"mcti: {record['error']}"]
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


def test_it_goes_on_with_what_is_not_answered_yet(classify, broken, tmp_path, monkeypatch, capsys):
    plain, batches = ClipClassifier.score, []

    def counted(self, images):
        batches.append(len(images))
        return plain(self, images)

    assert classify(out="whole.jsonl") == 1
    capsys.readouterr()
    monkeypatch.setattr(ClipClassifier, "score", counted)
    assert classify("--resume") == 1
    assert told(capsys) == ["mcti: going on after 8 images"]
    assert batches == [4, 4, 2]
    assert broken.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "whole.jsonl"]


def test_it_is_not_overwritten_unasked(classify, broken, tmp_path, capsys):
    before = broken.read_bytes()
    capsys.readouterr()
    assert classify() == 1
    (line,) = told(capsys)
    assert all(way in line for way in ("--resume", "--restart", "another --out"))
    assert broken.read_bytes() == before
    assert classify("--restart", "--top", "3") == 1
    assert len(json.loads(broken.read_text().splitlines()[0])["top"]) == 3
    capsys.readouterr()
    assert classify("--resume") == 1  # it is finished
    (line,) = told(capsys)
    assert "finished" in line
    assert "--restart" in line


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--top", "2"], "top was 1, is 2"),
        (["--threshold", "0.5"], "threshold was 0.0, is 0.5"),
        (["--method", "hybrid"], "method was clip, is hybrid"),
        (["--batch", "5"], "batch was 4, is 5"),
        (["--recursive"], "number of images was 19, is 20"),
        (["--dtype", "bf16"], "another model"),
    ],
)
def test_other_answers_are_refused(classify, broken, capsys, options, difference):
    before = broken.read_bytes()
    capsys.readouterr()
    assert classify("--resume", *options) == 1
    (line,) = told(capsys)
    assert difference in line
    assert "--restart" in line
    assert broken.read_bytes() == before


def test_other_tokens_are_refused(folder, broken, capsys):
    assert main(["train", str(folder / "examples"), "--out", str(broken.parent / "other"), "--steps", "1"]) == 0
    capsys.readouterr()
    other = ["--tokens", str(broken.parent / "other" / "tokens.safetensors"), "--out", str(broken), "--batch", "4"]
    assert main(["classify", str(folder / "images"), *other, "--resume"]) == 1
    (line,) = told(capsys)
    assert "another set of tokens" in line


def test_with_nothing_to_go_on_with_it_begins(classify, capsys):
    assert classify("--resume") == 1
    assert told(capsys) == ["mcti: there are no unfinished answers; beginning anew"]


def test_folders_in_folders(classify, tmp_path):
    assert classify("--recursive") == 1
    records = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(records) == IMAGES + 1
    assert records[-1]["image"].endswith("a.png")


@pytest.mark.parametrize("option", ["--resume", "--restart"])
def test_what_is_about_a_file_needs_one(folder, option, capsys):
    tokens = folder / "trained" / "tokens.safetensors"
    assert main(["classify", str(folder / "images"), "--tokens", str(tokens), option]) == 1
    (line,) = told(capsys)
    assert "--out" in line


def test_several_processes_need_a_file(folder, monkeypatch, capsys):
    from mcti_core import processes

    monkeypatch.setattr(processes, "launched", lambda **options: Processes(0, 2))
    tokens = folder / "trained" / "tokens.safetensors"
    assert main(["classify", str(folder / "images"), "--tokens", str(tokens)]) == 1
    (line,) = told(capsys)
    assert "2 processes" in line
    assert "--out" in line


def test_commands_that_cannot_be_shared_say_so(folder, tmp_path, monkeypatch, capsys):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    tokens = folder / "trained" / "tokens.safetensors"
    assert main(["convert", str(tokens), "--out", str(tmp_path / "x"), "--to", "set"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mcti (process 1): only train, classify and evaluate")
    assert not list(tmp_path.iterdir())
