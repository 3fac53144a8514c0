"""The scripts run from end to end and say what they promise; figures are not judged, for machines differ."""

import json

import pytest
from PIL import Image

from benchmarks import growth, speed

pytestmark = pytest.mark.slow


def test_speed(tmp_path, capsys):
    file = tmp_path / "speed.json"
    speed.main(["--model", "pocket", "--device", "cpu", "--quick", "--parts", "training", "limit", "--json", str(file)])
    found = json.loads(file.read_text())
    names = [row["training"] for row in found["training"]]
    assert names == ["usual recipe", "ours, one class at a time", "ours, all classes, batch 20"]
    assert found["training"][0]["times the recipe's"] == 1
    assert all(row["samples/s"] > 0 and row["memory in all, MB"] > 50 for row in found["training"])
    assert all(0 < row["share"] < 1.5 for row in found["limit"])
    assert names[-1] in capsys.readouterr().out


def test_growth(tmp_path):
    file, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    growth.main(["--device", "cpu", "--dtype", "fp32", "--quick", "--json", str(file), "--plot", str(picture)])
    rows = json.loads(file.read_text())["rows"]
    assert {row["what grows"] for row in rows} == set(growth.AXES)
    size = {row["to"]: row["step, ms"] for row in rows if row["what grows"] == "size"}
    assert size[2.0] > 1.5 * size[1.0]  # four times the pixels
    with Image.open(picture) as opened:
        assert opened.size[0] > 1000
