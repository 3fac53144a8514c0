"""Every command with labels and paths that the console's encoding lacks: unprintable characters are escaped, and no command fails."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcti_core.cli.parser import _parser, main

ROOT = Path(__file__).parents[2]
LABELS = ("Лиса", "🦊🐾", "狐狸")
ENCODINGS = ("cp1252", "ascii")
QUICK = ["--steps", "1", "--batch-size", "3"]
RUNS = {  # by command: each must end with 0
    "train": [["train", "фото", "--output-dir", "学習", *QUICK]],
    "classify": [
        ["classify", "фото/Лиса", "--tokens", "набор.safetensors", "--top", "3"],
        ["classify", "фото/🦊🐾", "--tokens", "набор.safetensors", "--json", "--threshold", "1"],
        ["classify", "фото/狐狸", "--tokens", "набор.safetensors", "--output", "答え.jsonl"],
    ],
    "undo": [
        ["classify", "фото/Лиса", "--tokens", "набор.safetensors", "--copy-to", "куда"],
        ["undo", "куда/undo-1.json"],
    ],
    "benchmark": [
        ["benchmark", "--output-dir", "таблица", "--data-sets", "фото", "--shots", "1", "--seeds", "1", "--methods", "baselines", *QUICK],
    ],
    "evaluate": [["evaluate", "фото", "--shots", "1", "--seeds", "1", "--output-json", "結果.json", *QUICK]],
    "generate": [["generate", "--tokens", "набор.safetensors", "--prompt", "рыжая {}", "--output-dir", "画像", "--num-images", "1", "--num-inference-steps", "1"]],
    "add": [["add", "ещё", "--tokens", "набор.safetensors", "--output-dir", "больше", *QUICK]],
    "convert": [
        ["convert", "набор.safetensors", "--format", "embeddings", "--output", "埋め込み"],
        ["convert", "набор.safetensors", "--format", "set", "--output", "🦉.safetensors", "--rename", "狐狸=Ёж", "--select", "Ёж", "🦊🐾"],
    ],
}  # fmt: skip
MISTAKES = (
    ["generate", "--tokens", "набор.safetensors", "--prompt", "{狐}"],
    ["classify", "нет", "--tokens", "набор.safetensors"],
    ["convert", "набор.safetensors", "--format", "set", "--output", "x", "--select", "🐺"],
    ["train", "ещё/Волк", "--output-dir", "学習"],
)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    folder, random = tmp_path_factory.mktemp("letters"), np.random.default_rng(0)
    for place in (*(f"фото/{label}" for label in LABELS), "ещё/Волк"):
        (folder / place).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / place / f"снимок {number}.png")
    assert main(["train", str(folder / "фото"), "--output-dir", str(folder / "первый"), *QUICK]) == 0
    (folder / "первый" / "tokens.safetensors").rename(folder / "набор.safetensors")
    return folder


@contextmanager
def console(encoding: str) -> Iterator[Callable[[], list[str]]]:
    """Standard output and error of this encoding, which refuse what it lacks; gives a function: what was written."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors="strict") for _ in range(2)]

    def written() -> list[str]:
        for stream in streams:
            stream.flush()
        return [stream.buffer.getvalue().decode(encoding) for stream in streams]

    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        yield written


@pytest.fixture
def there(material, tmp_path, monkeypatch):
    """A folder with links to the material."""
    for path in material.iterdir():
        (tmp_path / path.name).symlink_to(path, target_is_directory=path.is_dir())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[str]:
    return list(_parser()._subparsers._group_actions[0].choices)


def test_every_command_is_tried():
    assert set(RUNS) | {"demo"} == set(commands())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", commands())
def test_help_is_printed(command, encoding):
    with console(encoding) as written, pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert written()[0].startswith("usage: ")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", RUNS)
def test_command_with_letters_that_the_console_lacks_ends_well(command, encoding, there):
    for arguments in RUNS[command]:
        with console(encoding) as written:
            code = main(arguments)
        output, errors = written()
        assert (code, "Traceback" in errors) == (0, False), errors
        assert re.search(r"\\[uU]", output) or command in ("evaluate", "undo"), output


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("arguments", MISTAKES, ids=lambda arguments: arguments[0])
def test_mistake_with_such_letters_is_a_sentence(arguments, encoding, there):
    with console(encoding) as written:
        assert main(arguments) == 1
    output, errors = written()
    assert output == ""
    assert errors.splitlines()[-1].startswith("mcti: ")
    assert re.search(r"\\[uU]", errors)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems name files in Unicode whatever the locale")
def test_file_that_the_locale_cannot_name_is_a_sentence(there):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m mcti_core convert набор.safetensors --format embeddings --output out".split()
    done = subprocess.run(command, env={**os.environ, **locale}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("mcti: 'out/")
    assert done.stderr.endswith("whose encoding is ascii; set PYTHONUTF8=1 in the environment\n")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_demo_into_such_a_folder_ends_well(encoding, tmp_path, short_demo):
    with console(encoding) as written:
        assert main(["demo", "--output-dir", str(tmp_path / "数字"), "--shots", "2"]) == 0
    assert "\\u6570\\u5b57" in written()[0]
