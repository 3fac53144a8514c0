"""No result is replaced without --overwrite or lost by an interruption, and unwritable outputs are found before the work."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcti_core.cli import generate
from mcti_core.files import provenance
from mcti_core.files.output_lock import lock_output
from mcti_core.tokens.io import export_embeddings, load_tokens, save_tokens
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training import extend, loop
from mcti_core.training.checkpoint import save_checkpoint
from mcti_core.training.loop import train

from ..fuzz.seeds import training
from .command_line import messages, run

ROOT = Path(__file__).parents[2]
GENERATE = "generate --num-inference-steps 1"
SHORT = "--steps 1 --batch-size 2 --classification-only-steps 0"


def write_photos(folder: Path, *labels: str, count: int = 3) -> Path:
    random = np.random.default_rng(len(labels))
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", "cat", "dog")


@pytest.fixture
def learned(tmp_path) -> Path:
    return save_tokens(TokenSet(("x", "y"), {"clip_l": torch.randn(2, 1, 96) / 9}), tmp_path / "set")


@pytest.fixture
def no_work(monkeypatch):
    """Any work would fail."""

    def refuse(*arguments, **options):
        raise AssertionError("it began to work")

    for name in ("train", "add", "generate", "evaluate", "classify"):
        monkeypatch.setattr(f"mcti_core.cli.{name}.host_of", refuse)
    monkeypatch.setattr("mcti_core.demo.run.load_pocket", refuse)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(capsys, line: str) -> str:
    """What a command says that ends at once, by whichever check."""
    try:
        code: object = run(line)
    except SystemExit as ended:
        code = ended.code
    assert code in (1, 2)
    return capsys.readouterr().err


def command_line(command: str, photos: Path, learned: Path, out: Path) -> str:
    """A command that writes into ``out``."""
    return {
        "train": f"train {photos} --output-dir {out} {SHORT}",
        "add": f"add {photos} --tokens {learned} --output-dir {out} {SHORT} --gamma 0",
        "generate": f"generate --tokens {learned} --prompt {{}} --num-images 2 --num-inference-steps 1 --output-dir {out}",
        "evaluate": f"evaluate {photos} --shots 1 --seeds 1 --steps 1 --output-json {out / 'rows.json'}",
        "demo": f"demo --output-dir {out}",
        "classify": f"classify {photos} --tokens {learned} --output {out / 'answers.jsonl'}",
    }[command]


COMMANDS = ("train", "add", "generate", "evaluate", "demo", "classify")


@pytest.mark.parametrize("command", COMMANDS)
def test_command_while_another_run_holds_its_output_is_refused(command, photos, learned, tmp_path, no_work, capsys):
    line = command_line(command, photos, learned, tmp_path / "out")
    held = {"evaluate": tmp_path / "out" / "rows.json", "classify": tmp_path / "out" / "answers.jsonl"}.get(command)
    with lock_output(held or tmp_path / "out", folder=held is None):
        assert run(line) == 1
        assert "another run" in messages(capsys)[-1]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("obstacle", ["a file", "a path that is too long", "a full disk"])
def test_command_whose_output_cannot_be_written_does_no_work(
    command, obstacle, photos, learned, tmp_path, no_work, capsys, monkeypatch
):
    out = tmp_path / "out"
    if obstacle == "a file":
        out.write_text("mine")
    elif obstacle == "a path that is too long":
        out = tmp_path.joinpath(*["d" * 200] * 25)
    else:

        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("mcti_core.files.writing.open", full, raising=False)
    before = content(tmp_path)
    error = refused(capsys, command_line(command, photos, learned, out))
    reasons = "cannot be written|already exists and is not a file|is a file; name a folder|must be a path"
    assert re.search(reasons, error)
    assert content(tmp_path) == before


@pytest.mark.parametrize("command", ["train", "add", "evaluate"])
def test_command_with_a_file_in_place_of_its_cache_does_no_work(command, photos, learned, tmp_path, no_work, capsys):
    (tmp_path / "cache").write_text("mine")
    line = command_line(command, photos, learned, tmp_path / "out")
    assert "is a file; name a folder" in refused(capsys, f"{line} --cache {tmp_path / 'cache'}")


@pytest.mark.parametrize("command", ["train", "add", "generate", "evaluate"])
def test_command_where_its_results_are_replaces_them_only_when_asked(command, photos, learned, tmp_path, capsys):
    line = command_line(command, photos, learned, tmp_path / "out")
    assert run(line) == 0
    before = content(tmp_path)
    capsys.readouterr()
    for more in ("", "--resume", "--restart") if command == "train" else ("",):
        assert run(f"{line} {more}") == 1
        assert "already exists; replace it with --overwrite" in messages(capsys)[-1]
        assert content(tmp_path) == before
    assert run(f"{line} --overwrite") == 0
    assert content(tmp_path).keys() == before.keys()


def test_train_where_only_embeddings_of_a_set_are_left_replaces_none(photos, tmp_path, no_work, capsys):
    export_embeddings(TokenSet(("cat", "bird"), {"clip_l": torch.zeros(2, 1, 96)}), tmp_path / "out" / "embeddings")
    assert run(f"train {photos} --output-dir {tmp_path / 'out'}") == 1
    assert "cat.safetensors already exists" in messages(capsys)[-1]


def test_train_over_a_set_of_other_classes_names_the_embeddings_that_stay(photos, tmp_path, capsys):
    renamed = write_photos(tmp_path / "renamed", "kitten", "dog")
    assert run(f"train {photos} --output-dir {tmp_path / 'out'} {SHORT}") == 0
    (said,) = messages(capsys)
    assert "cat, dog: words of CLIP's vocabulary" in said
    assert run(f"train {renamed} --output-dir {tmp_path / 'out'} {SHORT} --overwrite") == 0
    assert "embeddings of other sets: cat; move them away" in messages(capsys)[-1]
    assert (tmp_path / "out" / "embeddings" / "cat.safetensors").exists()


def test_add_into_the_folder_of_an_unfinished_training_is_refused(photos, learned, tmp_path, no_work, capsys):
    save_checkpoint(training(), tmp_path / "out" / "training.safetensors")
    assert run(f"add {photos} --tokens {learned} --output-dir {tmp_path / 'out'}") == 1
    assert "training.safetensors already exists" in messages(capsys)[-1]


def stop_after(steps, monkeypatch, stop):
    def stopped(*arguments, on_step, **options):
        def watched(info):
            on_step(info)
            if info.step == steps:
                stop()

        return train(*arguments, on_step=watched, **options)

    for module in (loop, extend):
        monkeypatch.setattr(module, "train", stopped)


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_add_ended_by_a_signal_keeps_what_was_learned(kind, photos, learned, tmp_path, monkeypatch):
    stop_after(1, monkeypatch, lambda: os.kill(os.getpid(), getattr(signal, kind)))
    assert run(f"add {photos} --tokens {learned} --output-dir {tmp_path / 'out'} {SHORT} --gamma 0 --steps 500") == 130
    tokens = load_tokens(tmp_path / "out" / "tokens.safetensors")
    assert tokens.labels == ("x", "y", "cat", "dog")
    assert torch.equal(tokens.vectors["clip_l"][:2], load_tokens(learned).vectors["clip_l"])
    assert len(list((tmp_path / "out" / "embeddings").iterdir())) == 4


def test_add_whose_loss_is_not_finite_keeps_the_last_finite_tokens(photos, learned, tmp_path, monkeypatch, capsys):
    broken = lambda *arguments, **options: torch.tensor(float("nan"), requires_grad=True)  # noqa: E731
    monkeypatch.setattr("mcti_core.training.step.reconstruction_loss", broken)
    assert run(command_line("add", photos, learned, tmp_path / "out")) == 1
    (said,) = messages(capsys)
    assert re.search(r"not a finite number.*; the last finite tokens are in .*tokens\.safetensors", said)
    tokens = load_tokens(tmp_path / "out" / "tokens.safetensors")
    assert tokens.labels == ("x", "y", "cat", "dog")
    assert tokens.training["added"][0]["labels"] == ["cat", "dog"]
    assert all(v.isfinite().all() for v in tokens.vectors.values())


def test_generate_that_is_broken_off_keeps_the_images_that_are_done(learned, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "_POCKET_BATCH_SIZE", 2)
    real, seen = generate.progress_bar, []

    @contextmanager
    def interrupting(*arguments):
        with real(*arguments) as progress:

            def watched(done, total):
                progress(done, total)
                seen.append(len(list((tmp_path / "out").glob("*.png"))))
                if done == 4:
                    raise KeyboardInterrupt

            yield watched

    monkeypatch.setattr(generate, "progress_bar", interrupting)
    line = f"{GENERATE} --tokens {learned} --prompt {{}} --num-images 3 --output-dir {tmp_path / 'out'}"
    assert run(line) == 130
    assert seen == [2, 4]  # each is there as soon as it is done
    assert "interrupted: 4 of 6 images are in" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["x-00.png", "x-01.png", "x-02.png", "y-00.png"]
    kept = content(tmp_path / "out")
    monkeypatch.undo()
    assert run(line, "--overwrite") == 0
    assert content(tmp_path / "out").keys() > kept.keys()


def test_generate_names_a_prompt_that_draws_no_token(learned, tmp_path, capsys):
    line = f"{GENERATE} --tokens {learned} --num-images 1"
    for number, prompt in enumerate(("", "a photo of a dog", "a {x}", "{}")):
        assert run(line, "--prompt", prompt, "--output-dir", tmp_path / str(number)) == 0
        assert ("names no token of the set" in capsys.readouterr().err) == (number < 2)


def test_generate_names_images_of_an_earlier_run_beside_its_own(learned, tmp_path, capsys):
    line = f"{GENERATE} --tokens {learned} --prompt {{x}} --output-dir {tmp_path / 'out'}"
    assert run(f"{line} --num-images 2") == 0
    Image.new("RGB", (8, 8)).save(tmp_path / "out" / "mine.png")
    capsys.readouterr()
    assert run(f"{line} --num-images 1 --overwrite") == 0
    assert messages(capsys) == [f"mcti: {tmp_path / 'out'} also holds 1 image of an earlier run: image-01.png"]


def test_generate_on_a_disk_that_fills_up_names_the_image_and_keeps_the_others(learned, tmp_path, monkeypatch, capsys):
    real = provenance.write_own

    def full(path, *arguments):
        if path.name == "y-00.png":
            raise OSError(28, "No space left on device")
        return real(path, *arguments)

    monkeypatch.setattr(provenance, "write_own", full)
    assert run(f"{GENERATE} --tokens {learned} --prompt {{}} --num-images 1 --output-dir {tmp_path / 'out'}") == 1
    assert "y-00.png cannot be written (No space left on device)" in messages(capsys)[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x-00.png"]


@pytest.mark.slow
def test_train_killed_by_kill_9_locks_nothing_behind_it(photos, tmp_path):
    options = f"--output-dir {tmp_path / 'out'} --save-every 0 --batch-size 2"
    command = f"{sys.executable} -m mcti_core train {photos} {options}"

    def finished(options):
        return subprocess.run(f"{command} {options}".split(), cwd=ROOT, capture_output=True, text=True, check=False)

    process = subprocess.Popen(f"{command} --steps 5000".split(), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "training.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    second = finished("--steps 5000 --resume")
    assert second.returncode == 1
    assert f"another run (process {process.pid})" in second.stderr
    process.kill()
    process.wait()
    third = finished("--steps 3 --restart")
    assert third.returncode == 0, third.stderr
    assert not (tmp_path / "out" / ".mcti.lock").exists()
