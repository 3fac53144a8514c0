"""``mcti train --resume``, and the files that an ended process leaves."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from mcti_core.cli import train as commands
from mcti_core.tokens.io import load_tokens
from mcti_core.training.checkpoint import load_checkpoint
from mcti_core.training.loop import train

from .command_line import messages, run
from .kill_and_resume import Trial, write_examples

OPTIONS = "--steps 6 --batch-size 3 --seed 5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """Tokens of a training without a break."""
    out = tmp_path_factory.mktemp("whole")
    assert run(f"train {folder} --output-dir {out} {OPTIONS}") == 0
    return load_tokens(out / "tokens.safetensors")


@pytest.fixture
def broken(folder, tmp_path, monkeypatch, capsys):
    """The folder of a training that was broken off after three steps."""
    stop_after(3, monkeypatch)
    assert run(f"train {folder} --output-dir {tmp_path} {OPTIONS}") == 130
    monkeypatch.undo()
    captured = capsys.readouterr()
    assert "interrupted after 3 steps" in captured.out
    assert "with --resume to continue" in captured.out
    return tmp_path


def stop_after(steps, monkeypatch):
    def stopped(*arguments, on_step, **options):
        def stop(info):
            on_step(info)
            if info.step == steps:
                raise KeyboardInterrupt

        return train(*arguments, on_step=stop, **options)

    monkeypatch.setattr(commands, "train", stopped)


def same(first, second):
    assert all(torch.equal(first.vectors[name], v) for name, v in second.vectors.items())
    assert first.training == second.training
    assert first.labels == second.labels


def told(capsys):
    """What was said, one line each."""
    return [line for line in messages(capsys) if "words of CLIP's vocabulary" not in line]  # 0, 1 and 2 are


def test_resume_gives_the_same_tokens_and_removes_the_checkpoint(folder, broken, whole, capsys):
    assert load_checkpoint(broken / "training.safetensors").step == 3
    assert run(f"train {folder} --output-dir {broken} {OPTIONS} --resume") == 0
    assert told(capsys) == ["mcti: resuming after 3 steps"]
    same(load_tokens(broken / "tokens.safetensors"), whole)
    left = {path.name for path in broken.iterdir()}
    assert left == {"embeddings", "loss.png", "README.md", "run.toml", "tokens.safetensors"}


def test_train_over_a_checkpoint_is_refused(folder, broken, whole, capsys):
    before = (broken / "training.safetensors").read_bytes()
    assert run(f"train {folder} --output-dir {broken} {OPTIONS}") == 1
    (line,) = told(capsys)
    assert all(way in line for way in ("--resume", "--restart", "another --output-dir"))
    assert (broken / "training.safetensors").read_bytes() == before
    assert run(f"train {folder} --output-dir {broken} {OPTIONS} --restart") == 0
    same(load_tokens(broken / "tokens.safetensors"), whole)
    assert not (broken / "training.safetensors").exists()


def test_resume_with_other_options_is_refused(folder, broken, capsys):
    assert run(f"train {folder} --output-dir {broken} {OPTIONS} --lr 0.5 --resume") == 1
    (line,) = told(capsys)
    assert re.search(r"\(lr was [\d.]+, is 0.5\)", line)
    assert "--restart" in line
    assert "--start-from" in line
    (broken / "tokens.safetensors").unlink()
    assert run(f"train {folder} --output-dir {broken} {OPTIONS} --lr 0.5 --resume") == 1
    (line,) = told(capsys)
    assert "--restart" in line
    assert "--start-from" not in line


def test_start_from_begins_with_the_vectors_and_can_be_resumed(folder, broken, tmp_path, capsys, monkeypatch):
    other = f"train {folder} --output-dir {tmp_path / 'other'} {OPTIONS} --lr 1e-9"
    stop_after(2, monkeypatch)
    assert run(f"{other} --start-from {broken}") == 130
    monkeypatch.undo()
    capsys.readouterr()
    assert run(f"{other} --resume") == 1
    (line,) = told(capsys)
    assert "different set of first tokens" in line
    assert run(f"{other} --start-from {broken} --resume") == 0
    assert told(capsys) == ["mcti: resuming after 2 steps"]
    first, last = (load_tokens(path / "tokens.safetensors").vectors for path in (broken, tmp_path / "other"))
    assert all(torch.allclose(first[name], v, atol=1e-6) for name, v in last.items())


def test_resume_without_a_checkpoint_starts_from_the_beginning(folder, tmp_path, whole, capsys):
    assert run(f"train {folder} --output-dir {tmp_path} {OPTIONS} --resume") == 0
    (line,) = told(capsys)
    assert "no unfinished training" in line
    same(load_tokens(tmp_path / "tokens.safetensors"), whole)


def test_resume_from_a_damaged_checkpoint_is_refused(folder, broken, capsys):
    path = broken / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    assert run(f"train {folder} --output-dir {broken} {OPTIONS} --resume") == 1
    (line,) = told(capsys)
    assert "damaged" in line
    assert "--restart" in line


def test_resume_after_interrupted_writing_of_results_gives_the_same_tokens(folder, tmp_path, whole, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "write_training", interrupt)
    assert run(f"train {folder} --output-dir {tmp_path} {OPTIONS}") == 130
    assert not (tmp_path / "tokens.safetensors").exists()
    monkeypatch.undo()
    assert run(f"train {folder} --output-dir {tmp_path} {OPTIONS} --resume") == 0
    same(load_tokens(tmp_path / "tokens.safetensors"), whole)


def test_train_with_a_new_foreign_file_keeps_the_checkpoint(folder, tmp_path, whole, monkeypatch, capsys):
    write = commands.write_training

    def too_late(host, result, out):
        (out / "tokens.safetensors").write_text("mine")
        write(host, result, out)

    monkeypatch.setattr(commands, "write_training", too_late)
    assert run(f"train {folder} --output-dir {tmp_path} {OPTIONS}") == 1
    error = capsys.readouterr().err
    assert "not written by MC-TI" in error
    assert "training.safetensors; fix this, and continue with --resume" in error
    monkeypatch.undo()
    assert (tmp_path / "tokens.safetensors").read_text() == "mine"
    (tmp_path / "tokens.safetensors").unlink()
    assert run(f"train {folder} --output-dir {tmp_path} {OPTIONS} --resume") == 0
    same(load_tokens(tmp_path / "tokens.safetensors"), whole)


@pytest.mark.parametrize("options", ["--resume --restart", "--resume never", "--save-every -1"])
def test_train_with_contradicting_options_shows_the_usage(options):
    with pytest.raises(SystemExit) as caught:
        run(f"train x --output-dir y {options}")
    assert caught.value.code == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are of POSIX")
@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_train_ended_by_a_signal_saves_its_last_step(folder, tmp_path, kind):
    command = f"{sys.executable} -m mcti_core train {folder} --output-dir {tmp_path} --steps 5000"

    def as_a_fresh_process():  # who runs the tests may ignore signals, as nohup does
        signal.signal(getattr(signal, kind), signal.SIG_DFL)

    with subprocess.Popen(
        command.split(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=as_a_fresh_process
    ) as process:
        seen = ""
        while not re.search(r"training: .*[1-9]\d*/5000", seen):
            seen += process.stderr.read(1)
        time.sleep(0.5)
        process.send_signal(getattr(signal, kind))
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    steps = int(re.search(r"interrupted after (\d+) steps", out)[1])
    assert load_checkpoint(tmp_path / "training.safetensors").step == steps > 0
    assert (tmp_path / "tokens.safetensors").exists()


@pytest.mark.slow
def test_train_killed_three_times_loses_nothing(tmp_path):
    trial = Trial(tmp_path, seed=1, kills_wanted=3)
    trial.run()
    assert trial.same == trial.runs
    assert trial.kills >= 3
    assert trial.lost == 0
