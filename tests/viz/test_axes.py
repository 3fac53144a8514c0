import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mcti_core.viz.axes import Axes, nice_ticks

AXES = Axes(left=50, top=20, width=400, height=200, last=100, low=-1.0, high=3.0)


def _drawn(values, width, axes=AXES):
    """(H, W) in [0, 1]: how much of each pixel is covered."""
    picture = Image.new("RGB", (500, 260), "white")
    axes.draw_curve(ImageDraw.Draw(picture), values, "black", width)
    return 1 - np.asarray(picture.convert("L")) / 255


def _height(drawn, step):
    """The middle of what is drawn at a step, as a value."""
    column = drawn[:, round(float(AXES.x(step)))]
    row = (column * (np.arange(len(column)) + 0.5)).sum() / column.sum()
    return AXES.low + (AXES.bottom - row) / AXES.height * (AXES.high - AXES.low)


@pytest.mark.parametrize("high", [5e-324, 1e-310, 1e30])
def test_ticks_of_any_range_can_be_drawn(high):
    assert len(nice_ticks(0.0, high, 8)) >= 1


@settings(deadline=None)
@given(st.floats(-1e12, 0), st.floats(1e-9, 1e12), st.integers(3, 10), st.booleans())
def test_ticks_are_round_even_and_few(low, high, most, whole):
    assume(not whole or high - low >= 2)
    ticks = nice_ticks(low, high, most, whole=whole)
    values = [value for value, _ in ticks]
    assert 1 <= len(values) <= most + 1
    assert 0 in values
    slack = 1e-6 * (high - low)
    assert low - slack <= min(values)
    assert max(values) <= high + slack
    for step in np.diff(values):
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(mantissa - good) for good in (1, 2, 2.5, 5)) < 1e-4
        assert not whole or step == pytest.approx(round(step))


@settings(deadline=None)
@given(st.floats(-1e12, 0), st.floats(1e-9, 1e12), st.integers(3, 10))
def test_ticks_are_labelled_with_their_values(low, high, most):
    ticks = nice_ticks(low, high, most)
    for value, text in ticks:
        assert float(text) == pytest.approx(value, rel=1e-6)
        assert len(text) <= 9
    assert len({text for _, text in ticks}) == len(ticks)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 0.66, "0 0.1 0.2 0.3 0.4 0.5 0.6"),
        (0, 3.2, "0 0.5 1 1.5 2 2.5 3"),
        (0, 50, "0 10 20 30 40 50"),
        (-3, 1, "-3 -2.5 -2 -1.5 -1 -0.5 0 0.5 1"),
        (0, 3.1e-6, "0 5e-07 1e-06 1.5e-06 2e-06 2.5e-06 3e-06"),
        (-5.9, -5, "-5.8 -5.6 -5.4 -5.2 -5"),
    ],
)
def test_ticks_as_people_write_them(low, high, texts):
    assert " ".join(text for _, text in nice_ticks(low, high, 8)) == texts


def test_curves_are_as_high_as_their_values():
    values = 1 + np.sin(np.arange(1, 101) / 15)
    drawn = _drawn(values, 3)
    for step in (5, 20, 50, 77, 99):
        assert _height(drawn, step) == pytest.approx(values[step - 1], abs=0.05)


def test_places_are_linear():
    assert AXES.x([0, 50, 100]).tolist() == [50, 250, 450]
    assert AXES.y([-1, 1, 3]).tolist() == [220, 120, 20]


def test_a_line_has_its_width():
    for width in (1, 4):
        assert _drawn(np.full(100, 1.0), width)[:, 250].sum() == pytest.approx(width)


def test_gaps_stay_empty_and_lone_values_are_seen():
    values = np.full(100, 1.0)
    values[20:40] = values[41:60] = math.nan
    covered = _drawn(values, 3).max(0) > 0
    places = AXES.x(np.arange(1, 101)).round().astype(int)
    assert covered[places[:20]].all()
    assert not covered[places[21:39]].any()
    assert covered[places[40]]
    assert not covered[places[42:59]].any()
    assert covered[places[60:]].all()


def test_the_only_value_is_drawn_larger_than_a_line():
    only = np.full(100, math.nan)
    only[50] = 1.0
    drawn = _drawn(only, 3)
    assert (drawn.max(1) > 0.5).sum() == (drawn.max(0) > 0.5).sum() > 6


@pytest.mark.parametrize("count", [300, 5000, 5001])
def test_long_curves_keep_their_peaks_and_gaps(count):
    axes = Axes(50, 20, 400, 200, count, -1.0, 3.0)
    values = np.zeros(count)
    values[count // 4], values[count // 2] = 2.5, -1.0
    values[3 * count // 4 : 3 * count // 4 + count // 10] = math.nan
    drawn = _drawn(values, 2, axes=axes)
    top, bottom = (round(float(axes.y(value))) for value in (2.5, -1))
    assert drawn[top, 145:155].max() > 0.5
    assert drawn[bottom - 1, 245:255].max() > 0.5
    assert drawn[:, 355:385].max() == 0
    assert drawn[:, 449].max() > 0.9


def test_what_is_far_outside_harms_nothing():
    values = np.full(100, 1.0)
    values[30], values[60], values[61] = 1e300, math.inf, -1e30
    drawn = _drawn(values, 3)
    assert _height(drawn, 10) == pytest.approx(1.0, abs=0.05)
    assert _height(drawn, 90) == pytest.approx(1.0, abs=0.05)


def test_the_frame_has_a_line_and_a_number_at_every_tick():
    picture = Image.new("RGB", (500, 260), "white")
    values, steps = nice_ticks(-1, 3, 5), nice_ticks(0, 100, 5, whole=True)
    AXES.draw_frame(ImageDraw.Draw(picture), values, steps)
    grey = np.asarray(picture.convert("L")).astype(int)
    lines = np.flatnonzero((grey[:, 60:440] < 250).all(1))
    rows = [round(float(AXES.y(value))) for value, _ in values]
    assert all(np.abs(lines - row).min() <= 1 for row in [*rows, AXES.bottom])
    assert len(lines) == 2 * len({*rows, AXES.bottom})
    for row in rows:
        assert grey[row - 8 : row + 8, :40].min() < 150
    for step, _ in steps:
        x = round(float(AXES.x(step)))
        assert grey[AXES.bottom + 12 : AXES.bottom + 32, x - 14 : x + 14].min() < 150
