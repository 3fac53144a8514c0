import os
import time

import pytest

from mcti_core.errors import ResumeError
from mcti_core.training import autosave
from mcti_core.training.autosave import AutoSaver
from mcti_core.training.checkpoint import load_checkpoint
from mcti_core.training.errors import StopTraining
from mcti_core.training.loop import TrainConfig, train

CONFIG = TrainConfig(steps=4, batch_size=2, lr=1e-2, templates=("a photo of a {}",))


class FullDisk:
    """In place of ``save_checkpoint``."""

    def __init__(self, room=0):
        self.room, self.asked, self.save = room, 0, autosave.save_checkpoint

    def __call__(self, stored, path):
        self.asked += 1
        if self.asked > self.room:
            raise ResumeError("the disk is full")
        return self.save(stored, path)


def run(host, cache, tokens, path, after=lambda step: None, **options):
    """A training that is kept, and how many saves it took; ``after`` is called after each step."""
    with AutoSaver(path, **options) as kept:

        def on_step(info):
            kept.on_step(info)
            after(info.step)

        return train(host, cache, tokens, CONFIG, on_step=on_step), kept


@pytest.mark.parametrize("way", [KeyboardInterrupt, StopTraining, ValueError, SystemExit, MemoryError])
def test_every_way_out_keeps_the_last_whole_step(tiny_host, cache, tokens, tmp_path, way):
    path = tmp_path / "new" / "training.safetensors"

    def leave(step):
        assert not path.exists()  # an hour has not passed
        if step == 3:
            raise way

    if way in (KeyboardInterrupt, StopTraining):
        run(tiny_host, cache, tokens, path, leave, every=3600)
    else:
        with pytest.raises(way):
            run(tiny_host, cache, tokens, path, leave, every=3600)
    stored = load_checkpoint(path)
    assert stored.step == 3
    whole = train(tiny_host, cache, tokens, CONFIG)
    rest = train(tiny_host, cache, tokens, CONFIG, resume=stored)
    assert all((rest.tokens.vectors[name] == v).all() for name, v in whole.tokens.vectors.items())


def test_an_update_broken_off_in_the_middle_does_not_reach_the_file(tiny_host, cache, tokens, tmp_path, monkeypatch):
    """Ctrl-C may come while the optimizer has moved the vectors and the step is not counted yet."""
    import torch

    path, plain, calls = tmp_path / "training.safetensors", torch.optim.AdamW.step, []

    def step(self, *arguments):
        plain(self, *arguments)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(tiny_host, cache, tokens, path)
    monkeypatch.undo()
    state = load_checkpoint(path)
    assert state.step == 2
    whole, rest = (train(tiny_host, cache, tokens, CONFIG, resume=resume) for resume in (None, state))
    assert all((rest.tokens.vectors[name] == v).all() for name, v in whole.tokens.vectors.items())


def test_it_is_saved_from_time_to_time(tiny_host, cache, tokens, tmp_path, monkeypatch):
    disk = FullDisk(room=99)
    monkeypatch.setattr(autosave, "save_checkpoint", disk)
    run(tiny_host, cache, tokens, tmp_path / "a", every=0)
    assert disk.asked == 4  # each step, and the last one not again
    now = [0.0]
    monkeypatch.setattr(autosave.time, "monotonic", lambda: now[0])
    for asked, seconds in ((1, 1.0), (2, 6.0), (3, 30.0)):
        disk.asked = 0
        run(tiny_host, cache, tokens, tmp_path / "b", lambda step, s=seconds: now.__setitem__(0, now[0] + s), every=10)
        assert disk.asked == asked, seconds


def test_slow_saves_become_rare(tiny_host, cache, tokens, tmp_path, monkeypatch):
    now, saves, plain = [0.0], [], autosave.save_checkpoint

    def slow(stored, path):
        saves.append(stored.step)
        now[0] += 1.0
        return plain(stored, path)

    monkeypatch.setattr(autosave, "save_checkpoint", slow)
    monkeypatch.setattr(autosave.time, "monotonic", lambda: now[0])
    run(tiny_host, cache, tokens, tmp_path / "a", lambda step: now.__setitem__(0, now[0] + 120.0), every=10)
    assert saves == [2, 4]  # one second of saving in two hundred


def test_a_full_disk_does_not_end_a_training(tiny_host, cache, tokens, tmp_path, monkeypatch):
    told, path = [], tmp_path / "training.safetensors"
    monkeypatch.setattr(autosave, "save_checkpoint", FullDisk(room=2))
    result, kept = run(tiny_host, cache, tokens, path, every=0, log=told.append)
    assert (result.stop_reason, result.steps) == ("max_steps", 4)
    assert told == ["the disk is full"]
    assert load_checkpoint(path).step == 2
    kept.remove()
    kept.remove()
    assert not path.exists()


def test_leftovers_of_programs_that_were_ended_are_cleared_away(tmp_path):
    old, new, other = (
        tmp_path / name for name in (f".mcti-{'a' * 32}.tmp", f".mcti-{'b' * 32}.tmp", f".{'c' * 32}.tmp")
    )
    for file in (old, new, other):
        file.write_bytes(b"half")
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    os.utime(other, (long_ago, long_ago))
    with AutoSaver(tmp_path / "training.safetensors"):
        pass
    assert set(tmp_path.iterdir()) == {new, other}
