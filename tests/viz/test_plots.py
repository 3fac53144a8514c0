import math
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import ImageColor

from mcti_core.errors import ConfigError
from mcti_core.viz.plots import confusion_plot, loss_curves, score_bars

HISTORY = {
    "loss": [2.0, 1.5, 1.0, 0.9],
    "reconstruction": [math.nan, math.nan, 0.5, 0.4],
    "classification": [math.nan] * 4,
}


def _pixels(picture):
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def _coloured(picture):
    pixels = _pixels(picture)
    return int((np.ptp(pixels, axis=2) > 40).sum())


def _is(picture, colour):
    """(H, W) bool: which pixels are exactly of a colour."""
    return (np.asarray(picture) == ImageColor.getrgb(colour)).all(2)


def test_loss_curves_leave_out_terms_that_were_not_computed():
    two = loss_curves({"run": HISTORY})
    three = loss_curves({"run": {**HISTORY, "classification": [1.0] * 4}})
    assert _coloured(two) > 0
    assert three.width > 1.3 * two.width


def test_loss_curves_of_several_runs_and_of_one_step():
    one, two = loss_curves({"a": HISTORY}), loss_curves({"a": HISTORY, "b": {"loss": [3.0, 2.0]}})
    assert two.height > one.height  # the runs are named
    assert _coloured(loss_curves({"a": {"loss": [1.0]}})) > 0


def test_curves_are_as_high_as_their_values():
    """Of values 4, 2, 0 and 3, each held for a quarter of the steps, whatever the unit."""
    for unit in (1e-7, 1.0, 1e9):
        picture = loss_curves({"": {"loss": [unit * v for v in (4.0, 2.0, 0.0, 3.0) for _ in range(60)]}})
        rows, columns = np.nonzero(_is(picture, "#0b62b8"))
        start, end = columns.min(), columns.max()
        middles = [start + (end - start) * (2 * quarter + 1) / 8 for quarter in range(4)]
        four, two, zero, three = (rows[np.abs(columns - middle) < 10].mean() for middle in middles)
        assert zero - four > 250
        assert (zero - two) / (zero - four) == pytest.approx(2 / 4, abs=0.01)
        assert (zero - three) / (zero - four) == pytest.approx(3 / 4, abs=0.01)


def test_every_term_has_its_own_scale_and_runs_share_it():
    runs = {"a": {"x": [8.0] * 50, "y": [0.01] * 50}, "b": {"x": [4.0] * 50, "y": [0.005] * 50}}
    picture = loss_curves(runs)
    heights = []
    for colour in ("#0b62b8", "#d1600a"):
        rows, columns = np.nonzero(_is(picture, colour))
        below_legend = rows > 80
        for panel in (columns < picture.width / 2, columns > picture.width / 2):
            heights.append(rows[below_legend & panel].mean())
    a_x, a_y, b_x, b_y = heights
    assert a_x == pytest.approx(a_y, abs=2)
    assert b_x == pytest.approx(b_y, abs=2)
    assert b_x > a_x + 100


def test_negative_values_are_below_the_line_of_zero():
    picture = loss_curves({"": {"loss": [-1.0] * 50 + [1.0] * 50}})
    rows, columns = np.nonzero(_is(picture, "#0b62b8"))
    width = np.ptp(columns)
    low, high = rows[columns < columns.min() + width / 3].mean(), rows[columns > columns.max() - width / 3].mean()
    grid = np.flatnonzero(_is(picture, "#eef1f4").sum(1) > width / 3)
    assert np.abs(grid - (low + high) / 2).min() < 2


def test_the_picture_keeps_its_size_while_training_goes_on():
    run = {"loss": [3.0 / (step + 1) for step in range(1200)], "other": [1e-5] * 1200}
    sizes = {loss_curves({"": {term: v[:done] for term, v in run.items()}}).size for done in (1, 2, 30, 300, 1200)}
    assert len(sizes) == 1


def test_the_average_is_seen_through_noise():
    picture = loss_curves({"": {"loss": np.random.default_rng(0).normal(1.0, 0.3, 400).tolist()}})
    pixels = _pixels(picture)
    average, _ = np.nonzero(_is(picture, "#0b62b8"))
    everything, _ = np.nonzero(pixels[..., 2] - pixels[..., 0] > 25)
    assert np.ptp(average) < np.ptp(everything) / 2


def test_curves_of_very_many_steps_are_drawn_in_linear_time():
    """A kernel over a twentieth of them took the square of their number: minutes."""
    begun = time.process_time()
    loss_curves({"": {"loss": np.ones(1_000_000)}})
    assert time.process_time() - begun < 10


def test_nan_gaps_are_drawn_as_gaps():
    values = [1.0] * 40 + [math.nan] * 40 + [1.0] * 40
    whole, gap = (_coloured(loss_curves({"a": {"loss": v}})) for v in ([1.0] * 120, values))
    assert gap == pytest.approx(whole * 2 / 3, rel=0.1)


@pytest.mark.parametrize("histories", [{}, {"a": {}}, {"a": {"loss": [math.nan]}}, {"a": {"loss": []}}])
def test_no_losses(histories):
    with pytest.raises(ConfigError, match="no losses"):
        loss_curves(histories)


@pytest.mark.parametrize("count", [1, 3, 26, 60])
def test_confusion_of_any_size(count):
    picture = confusion_plot(7 * torch.eye(count, dtype=torch.int64), [f"class {i}" for i in range(count)])
    assert _coloured(picture) > 0
    assert max(picture.size) < 2200


def test_confusion_shades_where_the_images_are():
    labels = ["a", "b", "c", "d"]
    upper, lower = (
        _pixels(confusion_plot(m, labels)) for m in (torch.ones(4, 4).triu(1).long(), torch.ones(4, 4).tril(-1).long())
    )
    assert upper.shape == lower.shape
    blue = [(p[..., 2] - p[..., 0] > 40).nonzero() for p in (upper, lower)]
    assert blue[0][1].mean() > blue[1][1].mean() + 50  # further right
    assert blue[0][0].mean() < blue[1][0].mean() - 50  # further up


def test_confusion_cells_are_where_their_classes_are_and_shaded_by_the_root_of_the_share():
    matrix = torch.zeros(4, 4, dtype=torch.int64)
    matrix[2] = torch.tensor([64, 36, 0, 0])
    matrix[1] = torch.tensor([0, 80, 16, 4])
    picture = _pixels(confusion_plot(matrix, ["a", "b", "c", "d"]))
    frame = _is(picture, "#d1d9e0")
    columns, rows = np.flatnonzero(frame.sum(0) > 300), np.flatnonzero(frame.sum(1) > 300)
    left, top, cell = columns[0] + 2, rows[0] + 2, (columns[-1] - columns[0] - 2) / 4
    roots = {(2, 0): 0.8, (2, 1): 0.6, (1, 2): 0.4, (1, 3): 0.2}
    accent = np.array(ImageColor.getrgb("#0b62b8"))
    for row in range(4):
        for column in range(4):
            y, x = top + row * cell, left + column * cell
            corner = picture[round(y + cell / 4), round(x + cell / 4)]
            if (row, column) != (1, 1):
                assert corner == pytest.approx(255 - roots.get((row, column), 0) * (255 - accent), abs=1)
            middle = picture[
                round(y + 0.4 * cell) : round(y + 0.6 * cell), round(x + 0.4 * cell) : round(x + 0.6 * cell)
            ]
            assert (np.abs(middle - corner).max() > 100) == bool(matrix[row, column])  # a number is there


AWKWARD = ["$5 and $x_1", "猫", "y" * 200, "", "a\nb", "W" * 22, "Ωμέγα", "fgjpqy|"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: confusion_plot(torch.eye(8).long() * 10**9, AWKWARD),
        lambda: confusion_plot(torch.eye(2).long(), ["W" * 40, "x"]),
        lambda: confusion_plot(torch.eye(2).long(), ["x", "W" * 40]),
        lambda: confusion_plot(torch.eye(60).long(), [f"Wide class {i}" * (i % 2 + 1) for i in range(60)]),
        lambda: confusion_plot(torch.eye(1).long(), ["x"]),
        lambda: score_bars(AWKWARD, torch.linspace(0, 1, 8)),
        lambda: score_bars(["x"], [1.0]),
        lambda: loss_curves({f"{name} {i}": {name: [1e6], "z": [-1e-9]} for i, name in enumerate(AWKWARD)}),
        lambda: loss_curves({"": {"loss": np.linspace(-1e5, 1e5, 20000).tolist(), "W" * 90: [0.0]}}),
        lambda: loss_curves({"": {"loss": [-1e17] * 3}}),
        lambda: loss_curves({"": {"loss": [5.0, math.inf, math.nan, -math.inf, 1.0]}}),
    ],
)
def test_nothing_is_cut_off(draw):
    """The margin stays white."""
    inside = (_pixels(draw()) < 255).any(2)
    rows, columns = np.nonzero(inside)
    assert min(rows.min(), columns.min()) >= 8
    assert rows.max() < inside.shape[0] - 8
    assert columns.max() < inside.shape[1] - 8


def test_labels_of_any_kind_are_drawn_without_warnings():
    labels = ["$5 and $x_1", "猫", "y" * 200, "", "a\nb"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        confusion_plot(torch.eye(5, dtype=torch.int64), labels)
        picture = score_bars(labels, [0.5, 0.2, 0.2, 0.05, 0.05])
    assert picture.width < 1200


def test_confusion_refuses_what_does_not_fit():
    for matrix, labels in ((torch.eye(2), ["a"]), (torch.zeros(0, 0), [])):
        with pytest.raises(ConfigError, match="confusion matrix"):
            confusion_plot(matrix, labels)


def test_score_bars_in_order_whatever_the_order_given():
    names, values = ["a", "b", "c"], [0.1, 0.7, 0.2]
    again = score_bars(names[::-1], values[::-1])
    assert np.array_equal(_pixels(score_bars(names, values)), _pixels(again))
    assert np.array_equal(_pixels(score_bars(names, torch.tensor(values).double())), _pixels(again))


def test_bars_are_as_long_as_their_values():
    values = [1.0, 0.5, 0.25, 0.001, 0.0]
    picture = score_bars(list("abcde"), values)
    filled = (_is(picture, "#0b62b8") | _is(picture, "#9db7d3")).sum(1)
    track = (filled + _is(picture, "#eef1f4").sum(1)).max()
    lengths = [filled[start : start + 20].max() for start in range(30, picture.height, 50)]
    assert lengths == pytest.approx([value * track for value in values], abs=2)
    assert lengths[3] > lengths[4] == 0


def test_score_bars_show_the_best_twelve():
    many = score_bars([f"{i:02}" for i in range(50)], [1 / 50] * 50)
    assert many.height == score_bars([f"{i:02}" for i in range(12)], [1 / 50] * 12).height


@pytest.mark.parametrize(("labels", "values"), [([], []), (["a"], [0.5, 0.5]), (["a"], [1.5]), (["a"], [math.nan])])
def test_score_bars_refuse(labels, values):
    with pytest.raises(ConfigError, match="score bars"):
        score_bars(labels, values)
