"""The scripts run from end to end and print what they promise; the figures depend on the machine and are not tested."""

import json

import pytest
from PIL import Image

from benchmarks import decisions, growth, memory, speed, stream, time_to_accuracy

pytestmark = pytest.mark.slow


def test_speed(tmp_path, capsys):
    file = tmp_path / "speed.json"
    speed.main(["--model", "pocket", "--device", "cpu", "--quick", "--output-json", str(file)])
    found = json.loads(file.read_text())
    *trained, prepared, product = found["training"]
    names = [row["training"] for row in trained]
    assert names == ["usual recipe", "ours, one class at a time", "ours, all classes, batch 20"]
    assert all(row["memory in all, MB"] > 50 and 0 < row["of the matrix rate"] < 1.5 for row in trained)
    assert product["samples/s"] > 0 < prepared["samples/s"]
    assert {row["variant"] for row in found["variants"]} >= {"as loaded", "gradient checkpointing", "UNet contiguous"}
    assert [row["images through"] for row in found["clip"]] == ["bare vision tower", "CLIP classifier"]
    whole, test = found["diffusion"]
    assert whole["evaluations per image"] == 640 > test["evaluations per image"] > 40
    assert names[-1] in capsys.readouterr().out


def test_time_to_accuracy(tmp_path):
    file, picture = tmp_path / "tta.json", tmp_path / "tta.png"
    time_to_accuracy.main(["--quick", "--output-json", str(file), "--plot", str(picture)])
    found = json.loads(file.read_text())
    assert {row["method"] for row in found["curves"]} == {
        time_to_accuracy.OURS, time_to_accuracy.ONE_CLASS_AT_A_TIME, "usual recipe, pocket's settings"
    }  # fmt: skip
    seconds = [row["seconds"] for row in found["curves"] if row["method"] == time_to_accuracy.OURS]
    assert seconds == sorted(seconds)
    assert all(10 < row["accuracy"] <= 100 for row in found["curves"])
    assert picture.stat().st_size > 1000


def test_decisions(tmp_path):
    file, picture = tmp_path / "decisions.json", tmp_path / "decisions.png"
    decisions.main(["--quick", "--output-json", str(file), "--plot", str(picture)])
    found = json.loads(file.read_text())["digits"]
    assert found["images"] == {"asked": 10, "distinct": 10}
    assert {"all classes, 16 pairs", "sequential, error 0.1"} <= {row["strategy"] for row in found["budget"]}
    assert picture.stat().st_size > 1000


def test_growth(tmp_path):
    file, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    growth.main(["--device", "cpu", "--dtype", "fp32", "--quick", "--output-json", str(file), "--plot", str(picture)])
    rows = json.loads(file.read_text())["rows"]
    assert {row["what grows"] for row in rows} == set(growth.AXES)
    assert all(row["step, ms"] > 0 for row in rows)
    with Image.open(picture) as opened:
        assert opened.size[0] > 1000


def test_memory(tmp_path, monkeypatch):
    file = tmp_path / "memory.json"
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: False)
    memory.main(["--quick", "--models", "sd15-small", "--output-json", str(file)])
    found = json.loads(file.read_text())
    assert found["how"] == "computed from shapes, not measured"
    assert {row["what"] for row in found["rows"]} == {
        "train, images", "cache, images", "CLIP, texts", "CLIP, images", "diffusion, evaluations"
    }  # fmt: skip


def test_stream(tmp_path):
    file = tmp_path / "stream.json"
    stream.main(["--images", "300", "--names", "1000", "--photos", "4", "--output-json", str(file)])
    found = json.loads(file.read_text())
    assert (found["names"][0]["names"], found["stream"][0]["images"]) == (1000, 300)
    assert all(row["images/s"] > 0 for row in found["photos"])
