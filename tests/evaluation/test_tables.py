import re
import statistics
import subprocess
import time

import numpy as np
import pytest

from mcti_core.evaluation.results import Results
from mcti_core.evaluation.tables import comparison, plot, report


def cell(data, shots, seed, run, **figures):
    return {"data": data, "shots": shots, "seed": seed, "run": run, "figures": figures, "seconds": 1.0}


@pytest.fixture
def results():
    facts = {"classes": 4, "classes_in_all": 10, "test_images": 20, "test_images_in_all": 1500, "own_test": True, "training_images": 8}  # fmt: skip
    cells = [
        cell("a", 1, seed, "TI", **{"TI": {"accuracy": value, "agreement": 0.5, "clip_i": 0.25, "diversity": 0.125}})
        for seed, value in enumerate((0.5, 0.7, 0.9))
    ]
    cells += [
        cell("b|\x1b[2J", 1, 0, "TI", **{"TI": {"accuracy": 0.25}}),
        cell("a", 4, 0, "TI", **{"TI": {"accuracy": 1}}),
    ]
    cells += [cell("a", 0, 0, "reference", **{"CLIP zero-shot (knows the names)": {"accuracy": 0.6}})]
    return Results(
        {}, {"torch": "9"}, {"a": facts, "b|\x1b[2J": {**facts, "own_test": False}}, {"cars": "it is not there"}, cells
    )


def test_report_has_mean_spread_chance_caps_and_versions(results):
    lines = report(results).splitlines()
    spread = 100 * statistics.stdev([0.5, 0.7, 0.9])
    for line in (
        "torch 9.",
        "| a | 4 of 10 | 8 | 20 of 1,500 | yes |",
        "Left out: cars: it is not there",
        "| method | a | b\\|\\x1b[2J | mean |",
        "| chance | 25.0 | 25.0 | 25.0 |",
        f"| TI | 70.0 ± {spread:.1f} | 25.0 | 47.5 |",
        "| CLIP zero-shot (knows the names) | 60.0 |  |  |",
        "| TI: right class, % | 50.0 ± 0.0 |  |",
        "| TI: CLIP-I | 0.250 ± 0.000 |  |",
    ):
        assert line in lines
    assert lines.index("| TI | 100.0 |") > lines.index("Accuracy in %, 4 shots:")  # of one data set there is no mean
    assert not any(line.startswith("| MC-TI") for line in lines)  # rows without figures are left out
    assert "\x1b" not in report(results)


def test_comparison_is_split_by_split(results):
    worse = [cell("a", 1, seed, "TI", **{"TI": {"accuracy": value}}) for seed, value in enumerate((0.4, 0.7))]
    lines = comparison(results, Results({}, cells=worse)).splitlines()
    spread = 100 * statistics.stdev([0.1, 0.0])
    assert f"| TI | +5.0 ± {spread:.1f} |  |" in lines
    assert "| CLIP zero-shot (knows the names) |  |  |" not in lines


def test_plot_has_a_panel_per_data_set(results):
    pytest.importorskip("matplotlib")
    one, two = plot(Results({}, data={"a": results.data["a"]}, cells=results.cells)), plot(results)
    assert two.width > 1.5 * one.width
    assert len(np.unique(np.asarray(two).reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize("name", ["$\\bad{$", "a$_$b", "$$", "$^$", "\\$x$", "$\\frac{1}{0}$ \x1b"])
def test_plot_takes_names_as_they_are_and_starts_no_program(results, name, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib import rcParams

    monkeypatch.setitem(rcParams, "text.usetex", True)  # as a matplotlibrc in the current folder may say
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    cells = [{**each, "data": name} for each in results.cells]
    assert plot(Results({}, data={name: results.data["a"]}, cells=cells)).width > 100
    assert rcParams["text.usetex"]  # a program's own settings stay


def test_tables_and_plot_of_very_many_data_sets_and_shots_take_linear_time(results):
    pytest.importorskip("matplotlib")
    facts = results.data["a"]
    many = Results({}, data={f"d{n}": facts for n in range(3000)})
    many.cells += [cell(f"d{n}", 1 + n % 900, 0, "TI", TI={"accuracy": 0.5}) for n in range(3000)]
    begun = time.process_time()
    assert len(report(many)) > 100_000
    assert len(comparison(many, many)) > 10_000
    assert max(plot(many).size) < 5000
    assert time.process_time() - begun < 30


@pytest.mark.parametrize("name", ["<img src=http://a.b>", "![x](http://a.b)", "`x", "a|b", "</td><script>"])
def test_names_are_neither_html_nor_images_in_markdown(results, name):
    cells = [{**each, "data": name} for each in results.cells]
    text = report(Results({}, data={name: results.data["a"]}, missing={name: name}, cells=cells))
    assert not re.search(r"(?<!\\)[<!`]", text)
    assert {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| chance")} == {3}
