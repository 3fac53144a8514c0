"""The pocket checkpoint's recipe: shapes, and stages that can be resumed."""

import json
import unicodedata

import pytest
import torch
from torch import nn

from mcti_core.pocket.glyphs import pen_masks, render, sample_styles
from mcti_core.pocket.recipe.letters import LETTERS, _within
from mcti_core.pocket.recipe.optimizer import MuonWithAdamW
from mcti_core.pocket.recipe.shapes import Glyphs
from mcti_core.pocket.recipe.stage import Stage
from mcti_core.pocket.recipe.strokes import random_bend, thinned
from mcti_core.pocket.recipe.vocabulary import write_tokenizer


def _toy():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    optimizer = MuonWithAdamW(
        model.named_parameters(), matrix=lambda _, p: p.ndim == 2, lr_muon=0.02, lr_adamw=1e-2, decay=0.01
    )
    return model, optimizer


def _train(path, steps, stop_at=None):
    model, optimizer = _toy()
    for tick in Stage(path, steps, seed=1).ticks({"model": model, "optimizer": optimizer}, warmup=2):
        if tick.step == stop_at:
            return None
        loss = (model(torch.randn(6, 4)) - torch.rand(6, 2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(tick.scale)
    return model.state_dict()


@pytest.mark.parametrize("stop_at", [1, 4, 9])
def test_stage_stopped_anywhere_ends_the_same_to_the_bit(tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr("mcti_core.pocket.recipe.stage._SAVE_EVERY", 0.0)
    whole = _train(tmp_path / "whole.pt", 10)
    assert _train(tmp_path / "parts.pt", 10, stop_at) is None
    torch.rand(3)  # what another program draws
    parts = _train(tmp_path / "parts.pt", 10)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert list(tmp_path.glob("*.new")) == []


def test_stage_that_is_done_takes_more_steps_when_given_more(tmp_path):
    _train(tmp_path / "a.pt", 3)
    stage, (model, optimizer) = Stage(tmp_path / "a.pt", 5, seed=1), _toy()
    assert [tick.step for tick in stage.ticks({"model": model, "optimizer": optimizer})] == [3, 4]


def test_thinned_shape_is_a_line_within_it():
    shape = torch.zeros(1, 24, 24, dtype=torch.bool)
    shape[0, 4:20, 6:11] = True
    shape[0, 9:14, 6:20] = True
    line = thinned(shape)
    assert not (line & ~shape).any()
    blocks = line[:, 1:, 1:] & line[:, :-1, 1:] & line[:, 1:, :-1] & line[:, :-1, :-1]
    assert not blocks.any()  # nowhere two pixels wide
    assert line.any(2).sum() >= 10  # still as tall and wide, but for the pen
    assert line.any(1).sum() >= 9
    assert torch.equal(thinned(line), line)


def test_thinned_line_hangs_together():
    generator = torch.Generator().manual_seed(0)
    walk = torch.zeros(1, 40, 40)
    place = torch.tensor([20, 20])
    for _ in range(60):
        place = (place + torch.randint(-1, 2, (2,), generator=generator)).clamp(6, 33)
        walk[0, place[0], place[1]] = 1
    shape = torch.nn.functional.max_pool2d(walk, 5, 1, 2) > 0
    line = thinned(shape)[0]
    reached = torch.zeros_like(line)
    reached[tuple(line.nonzero()[0])] = True
    for _ in range(200):
        reached = (torch.nn.functional.max_pool2d(reached[None].float(), 3, 1, 1)[0] > 0) & line
    assert torch.equal(reached, line)


def test_letters_hold_no_digit_and_none_twice():
    letters = "".join(LETTERS.values())
    assert len(set(letters)) == len(letters)
    assert all(unicodedata.numeric(letter, None) is None for letter in letters)


@pytest.mark.parametrize(
    ("code", "ranges", "expected"),
    [(0x61, "U+0061-007A", True), (0x7B, "U+0061-007A", False), (0xAA, "U+0061,U+00AA", True), (0x62, "U+61", False)],
)
def test_ranges_of_a_font_file(code, ranges, expected):
    assert _within(code, ranges) is expected


def test_drawings_kept_for_testing_are_never_trained_on():
    masks = torch.zeros(20 + 10, 4, 72, 72, dtype=torch.uint8)
    masks[18:20] = 255  # the test drawings of the one by hand
    masks[29] = 255  # and of the one from fonts
    glyphs = Glyphs(masks, torch.tensor([20, 10]), handwritten=1)
    generator = torch.Generator().manual_seed(0)
    _, seen, label, _ = glyphs.batch(200, generator)
    _, kept, tested, _ = glyphs.batch(50, generator, test=True)
    assert seen.max() == 0
    assert set(label.tolist()) == set(range(8))
    assert kept.amax((1, 2, 3)).min() > 0
    assert set(tested.tolist()) <= set(range(4))


def test_without_a_bend_drawings_are_as_ever():
    lines = torch.zeros(1, 60, 60)
    lines[:, 10:50, 28:32] = 1
    styles = sample_styles(3, torch.Generator().manual_seed(0))
    masks = pen_masks(lines)[0, styles.pen]
    plain, _ = render(masks, styles)
    still, _ = render(masks, styles, bend=torch.zeros(3, 64, 64, 2))
    bent, _ = render(masks, styles, bend=torch.full((3, 64, 64, 2), 0.2))
    assert torch.equal(plain, still)
    assert not torch.allclose(plain, bent)


def test_bends_are_smooth_and_some_are_none():
    bends = random_bend(200, torch.Generator().manual_seed(0))
    assert bends.shape == (200, 64, 64, 2)
    flat = bends.abs().amax((1, 2, 3)) == 0
    assert 0.25 < flat.float().mean() < 0.55
    assert (bends[:, 1:] - bends[:, :-1]).abs().max() < 0.05


def test_tokenizer_of_a_run_that_is_resumed_is_the_one_that_is_there(tmp_path):
    words = ["rima", "rigo", "bako", "dimu"]
    first = write_tokenizer(tmp_path, words).get_vocab()
    content = json.loads((tmp_path / "vocab.json").read_text())
    content["rima</w>"], content["rigo</w>"] = (
        content["rigo</w>"],
        content["rima</w>"],
    )  # as another training orders them
    (tmp_path / "vocab.json").write_text(json.dumps(content))
    again = write_tokenizer(tmp_path, words).get_vocab()
    assert again["rima</w>"] == first["rigo</w>"]
    assert again.keys() == first.keys()
