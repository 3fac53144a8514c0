"""The scripts that make pictures and tables for docs/."""

import runpy
from pathlib import Path

import pytest

from mcti_core.pocket import load_pocket
from mcti_core.tokens.io import save_tokens
from mcti_core.training.initial import new_tokens

DOCS = Path(__file__).parents[2] / "docs"


def test_gallery_draws_every_token_in_every_prompt(tmp_path, monkeypatch):
    script = runpy.run_path(str(DOCS / "gallery.py"))
    drawn = []
    monkeypatch.setitem(script["main"].__globals__, "PROMPTS", script["PROMPTS"][-2:])
    monkeypatch.setitem(script["main"].__globals__, "image_grid", lambda *given: drawn.append(given) or _Sheet())
    tokens = save_tokens(new_tokens(load_pocket(), ["a", "b"]), tmp_path / "set")
    script["main"](tokens, tmp_path / "gallery.png")
    ((rows, prompts, labels),) = drawn
    assert [len(row) for row in rows] == [2, 2]
    assert prompts == ["1", "2"]
    assert labels == ("a", "b")


class _Sheet:
    def save(self, path, **options):
        path.write_bytes(b"a picture")


def test_gamma_table_has_a_line_per_gamma_with_mean_and_spread():
    script = runpy.run_path(str(DOCS / "gamma_curve.py"))
    rows = [
        {"gamma": gamma, "seed": seed, "accuracy": 0.5 + 0.1 * seed, "right_plain": 1.0, "right_edit": 0.5, "likeness_plain": 0.7, "likeness_edit": 0.7}
        for gamma in script["GAMMAS"]
        for seed in (0, 1)
    ]  # fmt: skip
    lines = script["table"](rows).splitlines()
    assert len(lines) == 2 + len(script["GAMMAS"])
    assert lines[-1] == "| auto | 55.0 ± 7.1 | 75.0 ± 0.0 | 0.700 ± 0.000 |"
    assert pytest.approx(0.55) == sum(script["summarised"](rows)["auto", "accuracy"]) / 2
