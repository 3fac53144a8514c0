"""Checks of the options that log and validate a training."""

from argparse import Namespace

import pytest
from PIL import Image

from mcti_core.cli.parser import main
from mcti_core.cli.train_monitor import held_out_of
from mcti_core.errors import ConfigError
from mcti_core.files.provenance import write_png
from mcti_core.training.trackers import CsvTracker


def test_validation_folder_with_a_class_that_is_not_in_training_is_refused(tmp_path):
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    arguments = Namespace(validation_folder=tmp_path, model=None)
    assert held_out_of(arguments, ("a", "b", "c"), None).classes == ("b", "c")
    with pytest.raises(ConfigError, match="not in training: c; remove them"):
        held_out_of(arguments, ("a", "b"), None)


@pytest.fixture
def watched(tmp_path):
    """Images of two classes, and a folder with the log and a sample of a longer training, and a picture by another program."""
    for name in ("b", "c"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), {"b": "red", "c": "blue"}[name]).save(tmp_path / "photos" / name / "1.png")
    (tmp_path / "out" / "samples").mkdir(parents=True)
    CsvTracker(tmp_path / "out").log({}, 1)
    write_png(Image.new("RGB", (8, 8)), tmp_path / "out" / "samples" / "step-00050.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "out" / "samples" / "step-00060.png")
    options = ["--output-dir", tmp_path / "out", "--report-to", "csv", "--validation-prompt", "a {b}", "--steps", "1"]
    return ["train", str(tmp_path / "photos"), *map(str, options), "--batch-size", "2"]


def test_logs_and_samples_of_an_earlier_training_are_replaced_only_with_overwrite(watched, tmp_path, capsys):
    assert main(watched) == 1
    assert "log.csv (and 2 more) already exists; replace it with --overwrite" in capsys.readouterr().err
    assert main([*watched, "--overwrite"]) == 0
    samples = sorted(path.name for path in (tmp_path / "out" / "samples").iterdir())
    assert samples == ["step-00001.png", "step-00060.png"]
    assert len((tmp_path / "out" / "log.csv").read_text().splitlines()) == 2
