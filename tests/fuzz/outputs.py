"""Properties of outputs: a command changes nothing before its work, and does not start if a result would be lost."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image

from mcti_core.cli import add, classify, evaluate, generate, train
from mcti_core.cli.parser import main
from mcti_core.demo import run
from mcti_core.files.output_lock import lock_output
from mcti_core.files.provenance import TEXT_MARK, write_json, write_png, write_text
from mcti_core.hosts.diffusers import loading
from mcti_core.tokens.io import export_embeddings, save_tokens
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.checkpoint import save_checkpoint

from .seeds import training

__all__ = ["Lost", "any_output"]

COMMANDS = ("train", "add", "generate", "evaluate", "demo", "classify")
LOCK = ".mcti.lock"
RESULTS = {
    "train": (
        "tokens.safetensors",
        "loss.png",
        "README.md",
        "run.toml",
        "embeddings/cat.safetensors",
        "embeddings/dog.safetensors",
    ),
    "add": ("tokens.safetensors", "training.safetensors", "embeddings/cat.safetensors", "embeddings/x.safetensors"),
    "generate": ("x-00.png", "x-01.png", "y-00.png", "y-01.png"),
    "evaluate": ("rows.json",),
    "demo": ("report.html", "metrics.json", "tokens.safetensors"),
    "classify": ("answers.jsonl",),
}
PLACES = (
    "", ".", "new", "new/deep", "here", "here/in", "link", "nowhere", "a file", "x" * 255, "x" * 256, "猫" * 90, "é", "a\nb", "/".join(["d" * 200] * 30), "here/../new", "here/",
)  # fmt: skip
THINGS = (
    "tokens.safetensors", "training.safetensors", "loss.png", "README.md", "run.toml", "embeddings", "embeddings/cat.safetensors", "embeddings/CAT.pt", "embeddings/old.safetensors",
    "x-00.png", "y-01.png", "rows.json", "report.html", "metrics.json", "answers.jsonl", "answers.jsonl.unfinished", LOCK, "notes.txt",
)  # fmt: skip


class Lost(Exception):  # noqa: N818 - of a result
    """A command did what none may do."""


class Began(Exception):  # noqa: N818 - its work
    pass


def any_output(random: Random, folder: Path) -> str:
    """A random command into a random place. Returns what came of it.

    Args:
        folder: empty, and empty again afterwards.
    """
    try:
        return _one(random, folder)
    finally:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _one(random: Random, folder: Path) -> str:
    for label in ("cat", "dog"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (90 * number, 50, 9)).save(folder / "photos" / label / f"{number}.png")
    learned = save_tokens(TokenSet(("x", "y"), {"clip_l": torch.zeros(2, 1, 96)}), folder / "learned")
    place = random.choice(PLACES)
    out = folder / place
    (folder / "a file").write_text("mine")
    (folder / "here").mkdir()
    (folder / "link").symlink_to(folder / "here", target_is_directory=True)
    (folder / "nowhere").symlink_to(folder / "gone")
    for _ in range(random.choice((0, 0, 1, 2, 4))):
        with contextlib.suppress(OSError):
            _put(random, out if out.is_dir() else folder / "here", random.choice(THINGS))
    command = random.choice(COMMANDS)
    options = [option for option in _options(command) if random.random() < 0.3]
    line = {
        "train": ["train", folder / "photos", "--output-dir", out],
        "add": ["add", folder / "photos", "--tokens", learned, "--output-dir", out],
        "generate": ["generate", "--tokens", learned, "--prompt", "{}", "--num-images", 2, "--output-dir", out],
        "evaluate": ["evaluate", folder / "photos", "--output-json", out / "rows.json"],
        "demo": ["demo", "--output-dir", out],
        "classify": [
            "classify",
            folder / "photos",
            "--recursive",
            "--tokens",
            learned,
            "--output",
            out / "answers.jsonl",
        ],
    }[command]
    before = _content(folder)
    outcome, told = _began([str(part) for part in (*line, *options)])
    if _content(folder) != before:
        raise Lost(
            f"{command} {options} into {place!r} changed {sorted(set(_content(folder)) ^ set(before)) or 'a file'}"
        )
    if outcome == "began":
        _check_allowed(command, options, out)
        with contextlib.suppress(OSError):
            _check_lock(command, out, [str(part) for part in (*line, *options)])
    elif outcome == "refused" and not re.search(r"^mcti: .{20,}", told, re.MULTILINE):
        raise Lost(f"{command} {options} into {place!r} said {told!r}")
    return outcome


def _options(command: str) -> tuple[str, ...]:
    resuming = ("--restart",) if command in ("train", "classify") else ()
    return resuming if command == "classify" else ("--overwrite", *resuming)


def _check_allowed(command: str, options: list[str], out: Path) -> None:
    there = [name for name in RESULTS[command] if os.path.lexists(out / name)]
    unfinished = command == "train" and (out / "training.safetensors").exists()
    asked = "--overwrite" in options or (command == "classify" and "--restart" in options)
    if there and not asked and not unfinished:
        raise Lost(f"{command} {options} began where {there} is")
    if unfinished and "--restart" not in options:
        raise Lost(f"{command} {options} began where an unfinished training is")


def _check_lock(command: str, out: Path, line: list[str]) -> None:
    file = {"evaluate": out / "rows.json", "classify": out / "answers.jsonl"}.get(command)
    with lock_output(file or out, folder=file is None):
        outcome, told = _began(line)
    if outcome != "refused" or "another run" not in told:
        raise Lost(f"{command} began beside another run, or said {told!r}")


def _put(random: Random, folder: Path, name: str) -> None:
    """Something of this name: of ours, of others, a folder, or a link."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if os.path.lexists(path):
        return
    kind = random.randrange(6)
    if kind == 0:
        path.write_bytes(random.randbytes(random.choice((0, 5, 300))))
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(random.choice((folder.parent / "a file", folder / "gone", folder)))
    else:
        _put_own(path)


def _put_own(path: Path) -> None:
    if path.name == "training.safetensors":
        save_checkpoint(training(), path)
    elif path.parent.name == "embeddings":
        export_embeddings(TokenSet((path.stem, "z"), {"clip_l": torch.ones(2, 1, 96)}), path.parent)
    elif path.suffix == ".safetensors":
        save_tokens(TokenSet(("cat", "dog"), {"clip_l": torch.ones(2, 1, 96)}), path)
    elif path.suffix == ".png":
        write_png(Image.new("RGB", (8, 8)), path)
    elif path.suffix in (".md", ".toml"):
        write_text(TEXT_MARK, path)
    elif path.suffix == ".html":
        write_text('<meta name="generator" content="MC-TI">', path)
    elif path.suffix == ".json":
        write_json({}, path)
    elif path.suffix == ".jsonl":
        path.write_text('{"image": "a.png", "label": "cat"}\n')
    elif path.name == LOCK:
        path.write_text("12345")
    else:
        path.write_text("{}")


def _began(line: list[str]) -> tuple[str, str]:
    """Whether the command began its work, and what it said."""
    said = io.StringIO()
    with _no_models(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(line)
        except Began:
            return "began", said.getvalue()
        except SystemExit as ended:
            return f"exit {ended.code}", said.getvalue()
    if code != 1:
        raise Lost(f"{line} ended with {code}")
    return "refused", said.getvalue()


@contextmanager
def _no_models() -> Iterator[None]:
    def began(*arguments: Any, **options: Any) -> Any:
        raise Began

    modules = (train, add, generate, evaluate, classify)
    kept = [(module, "host_of", module.host_of) for module in modules] + [
        (run, "load_pocket", run.load_pocket),
        (loading, "quiet_libraries", loading.quiet_libraries),
    ]
    try:
        for module, name, _ in kept:
            setattr(module, name, began)
        yield
    finally:
        for module, name, function in kept:
            setattr(module, name, function)


def _content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(above, name)
            if name == LOCK and path.is_file() and (path.read_bytes() or b"0").isdigit():
                continue  # of a run that was killed, which the next one takes over
            found[str(path)] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found
