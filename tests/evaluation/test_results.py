import json
from dataclasses import replace

import pytest

from mcti_core.errors import FileError, ResumeError
from mcti_core.evaluation.cells import Cell
from mcti_core.evaluation.results import Figures, Results, merge_parts, read_results
from mcti_core.files.writing import part_path, parts_of

FACTS = {"classes": 4, "classes_in_all": 4, "test_images": 8, "test_images_in_all": 8, "own_test": False, "training_images": 8}  # fmt: skip


def cell(seed, value=0.5, **others):
    figures = {"TI": {"accuracy": value}}
    return {"data": "toy", "shots": 1, "seed": seed, "run": "TI", "figures": figures, "seconds": 1.0, **others}


def results(*seeds, **others):
    return Results({"lr": "0.1"}, {"mcti": "1"}, {"toy": FACTS}, {}, [cell(seed) for seed in seeds], **others)


def test_saved_results_are_read_again(tmp_path):
    results(0, 3).save(tmp_path / "results.json")
    found = read_results(tmp_path / "results.json")
    assert found == results(0, 3)
    assert found.done() == [Cell("toy", 1, 0, "TI"), Cell("toy", 1, 3, "TI")]
    assert Figures(found.cells).values("toy", 1, "TI") == {0: 0.5, 3: 0.5}
    assert Figures(found.cells).values("toy", 2, "TI") == Figures(found.cells).values("toy", 1, "MC-TI") == {}


@pytest.mark.parametrize(
    "change",
    [
        {"settings": []}, {"settings": {"lr": 1}}, {"versions": {"x": None}}, {"data": {"toy": {"classes": "4"}}}, {"cells": [3]},
        {"data": {}}, {"cells": [cell(0, "high")]}, {"cells": [cell(-1)]}, {"cells": [cell(0, run="x")]}, {"cells": [cell(0, figures=[])]},
        {"cells": [cell(0, data=1)]}, {"cells": [cell(0, shots="1")]}, {"missing": {"x": 1}}, {"cells": [cell([1])]}, {"cells": [cell(0, shots={})]},
        {"data": {"toy": {}}}, {"data": {"toy": {**FACTS, "classes": 0}}}, {"data": {"toy": FACTS, "x": {"classes": 1}}}, {"data": {"toy": []}},
        {"data": {"toy": {**FACTS, "classes": 10**400}}}, {"cells": [cell(0, 10**400)]}, {"cells": [cell(0, 1e300)]}, {"cells": [cell(0, -(10**400))]},
        {"cells": [cell(0, float("inf"))]}, {"cells": [cell(0, shots=10**400)]}, {"cells": [cell(10**400)]}, {"cells": [cell(2**63)]}, {"cells": [cell(0, shots=n) for n in range(2000)]},
    ],
)  # fmt: skip
def test_values_of_other_kinds_are_refused(tmp_path, change):
    path = tmp_path / "results.json"
    results(0).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FileError, match="is not a benchmark's results"):
        read_results(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"written_by": "MC-TI"}', '{"settings": {}}', '{"written_by": "MC-TI", "x": NaN}'])  # fmt: skip
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(FileError):
        read_results(tmp_path / "x.json")
    with pytest.raises(FileError):
        read_results(tmp_path / "nowhere.json")


def test_parts_of_all_processes_are_merged_once(tmp_path):
    path = tmp_path / "results.json"
    results(0).save(path)
    results(0, 1).save(part_path(path, 1))  # its own rows, and one that was merged before a break
    results(5).save(part_path(path, 2))
    (tmp_path / "results.part-1.json").write_text("another program's")
    found = results()
    merge_parts(path, found)
    assert sorted(c.seed for c in found.done()) == [0, 1, 5]
    assert read_results(path) == found
    assert parts_of(path) == []
    assert (tmp_path / "results.part-1.json").exists()


def test_results_with_other_settings_are_not_continued(tmp_path):
    path = tmp_path / "results.json"
    results(0).save(path)
    before = path.read_bytes()
    with pytest.raises(ResumeError, match=r"lr was 0\.1, is 0\.2"):
        merge_parts(path, replace(results(), settings={"lr": "0.2"}))
    assert path.read_bytes() == before
