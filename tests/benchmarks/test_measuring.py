"""Parts of the benchmarks: turns, medians, counts, verdicts and plots."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import timing
from benchmarks.growth import AXES, Point, points
from benchmarks.line_plots import Panel, save_panels
from benchmarks.models import VOCABULARY, unet_flops, write_whole_tokenizer
from benchmarks.report import show, write_json
from benchmarks.time_to_accuracy import ONE_CLASS_AT_A_TIME, OURS, RECIPES, curves, verdict
from benchmarks.time_to_accuracy import Point as Mark
from benchmarks.timing import Case, Peak, flops_of, interleaved


def test_cases_take_turns_and_medians_count(monkeypatch):
    lasts, order, clock = iter([1.0, 10.0, 3.0, 90.0, 2.0, 20.0]), [], [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def run(name):
        order.append(name)
        if len(order) > 2:  # the first of each is not counted
            clock[0] += next(lasts)

    found = interleaved({"a": Case(lambda: run("a"), 2), "b": Case(lambda: run("b"), 5)}, 3, "cpu")
    assert order == ["a", "b"] * 4
    assert (found["a"].median, found["b"].median) == (1.0, 4.0)
    assert found["a"].rounds == (0.5, 1.5, 1.0)
    assert found["a"].rate == 1.0
    assert found["a"].rates == "0.667 to 2"


def test_flops_of_a_product_forward_and_backward_to_one_side():
    weight, x = torch.randn(30, 20), torch.randn(7, 30, requires_grad=True)
    assert flops_of(lambda: x @ weight) == 2 * 7 * 30 * 20
    assert flops_of(lambda: (x @ weight).sum().backward()) == 2 * 2 * 7 * 30 * 20


def test_flops_of_attention_are_counted():
    """Two products forward; backward four, and the scores again."""
    x = torch.randn(1, 2, 64, 32, requires_grad=True)
    product = 2 * 2 * 64 * 64 * 32
    assert flops_of(lambda: F.scaled_dot_product_attention(x.detach(), x.detach(), x.detach())) == 2 * product
    assert flops_of(lambda: F.scaled_dot_product_attention(x, x, x).sum().backward()) == 7 * product


@pytest.mark.slow
def test_what_sd15_costs_is_known():
    """0.803 TFLOP forward; the backward ends at the text, so that it costs a little more again and not twice."""
    counted = unet_flops("sd15")
    assert counted["forward"] == pytest.approx(0.803, abs=5e-4)
    assert 2.0 < counted["forward and backward"] / counted["forward"] < 2.25


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_peak_memory_sees_what_is_freed_again():
    with Peak("cpu") as large:
        torch.ones(64_000_000 // 4)  # larger than what an allocator keeps
    with Peak("cpu") as small:
        torch.ones(10)
    assert 50e6 < large.growth < 150e6
    assert small.growth < 30e6


def test_the_whole_tokenizer_is_as_long_as_clips_and_still_reads(tmp_path):
    from transformers import CLIPTokenizer

    write_whole_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == VOCABULARY
    ids = tokenizer("a photo of a object")["input_ids"]
    assert (ids[0], ids[-1], len(ids)) == (VOCABULARY - 2, VOCABULARY - 1, 7)


def test_verdict_is_the_first_time_within_a_point_of_the_best():
    recipe = next(iter(RECIPES))
    marks = [
        Mark(recipe, seed, steps, seconds, right + seed)
        for seed in (0, 1)
        for steps, seconds, right in ((1, 10.0, 50.0), (2, 20.0, 79.2), (4, 40.0, 80.0))
    ]
    marks += [Mark(ONE_CLASS_AT_A_TIME, 0, 2, 8.0, 81.0)]
    marks += [Mark(OURS, 0, 5, 2.0, 78.0), Mark(OURS, 0, 9, 4.0, 81.0), Mark(OURS, 0, 12, 5.0, 90.0)]
    found = verdict(curves(marks))
    assert found["goal"] == pytest.approx(79.5)
    assert found["gained by the last doubling"] == pytest.approx(0.8)
    assert [row["steps"] for row in found["first"].values()] == [2, 2, 9]
    assert found["ours takes, of the time of"] == pytest.approx({"recipe": 0.2, ONE_CLASS_AT_A_TIME: 0.5})
    late = verdict(curves(marks[:8]))  # ours has not come so far
    assert (late["first"][OURS], late["ours takes, of the time of"]) == (None, {})


def test_growth_changes_one_thing_at_a_time():
    for axis, point in points(quick=False):
        changed = [name for name in AXES if getattr(point, name) != getattr(Point(), name)]
        assert changed in ([], [axis])


def test_a_picture_has_a_curve_in_every_panel(tmp_path):
    series = {"one": [(1.0, 2.0), (10.0, 3.0)], "two": [(1.0, 1.0), (10.0, 0.5)]}
    save_panels([Panel("a", "x", series), Panel("b", "y", series, logarithmic=True)], tmp_path / "plot.png")
    picture = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"))
    for half in np.split(picture[:, : picture.shape[1] // 2 * 2], 2, axis=1):
        assert {(31, 119, 180), (255, 127, 14)} <= {tuple(pixel) for pixel in half.reshape(-1, 3)}


def test_tables_and_json(capsys, tmp_path):
    rows = [{"name": "a", "value": 1234.5}, {"name": "b", "value": None, "more": 0.123456}]
    show("A title", rows)
    assert capsys.readouterr().out.split("\n")[3:] == ["| name | value | more |", "|---|---|---|", "| a | 1,234 |  |", "| b |  | 0.123 |", ""]  # fmt: skip
    write_json(tmp_path / "deep" / "x.json", {"rows": rows})
    assert json.loads((tmp_path / "deep" / "x.json").read_text())["rows"] == rows
