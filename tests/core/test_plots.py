import math
import sys
import warnings

import numpy as np
import pytest
import torch

from mcti_core.errors import ConfigError, MCTIError
from mcti_core.plots import confusion_plot, loss_curves, score_bars

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


def test_loss_curves_leave_out_terms_that_were_not_computed():
    two = loss_curves({"run": HISTORY})
    three = loss_curves({"run": {**HISTORY, "classification": [1.0] * 4}})
    assert _coloured(two) > 0
    assert three.width > 1.3 * two.width


def test_loss_curves_of_several_runs_and_of_one_step():
    one, two = loss_curves({"a": HISTORY}), loss_curves({"a": HISTORY, "b": {"loss": [3.0, 2.0]}})
    assert two.height > one.height  # the runs are named
    assert _coloured(loss_curves({"a": {"loss": [1.0]}})) > 0


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


def test_score_bars_show_the_best_twelve():
    many = score_bars([f"{i:02}" for i in range(50)], [1 / 50] * 50)
    assert many.height == score_bars([f"{i:02}" for i in range(12)], [1 / 50] * 12).height


@pytest.mark.parametrize(("labels", "values"), [([], []), (["a"], [0.5, 0.5]), (["a"], [1.5]), (["a"], [math.nan])])
def test_score_bars_refuse(labels, values):
    with pytest.raises(ConfigError, match="score bars"):
        score_bars(labels, values)


def test_nothing_is_left_in_matplotlib():
    import matplotlib
    from matplotlib._pylab_helpers import Gcf

    before = dict(matplotlib.rcParams)
    score_bars(["a"], [1.0])
    assert dict(matplotlib.rcParams) == before
    assert not Gcf.figs


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MCTIError, match="pip install matplotlib"):
        score_bars(["a"], [1.0])
