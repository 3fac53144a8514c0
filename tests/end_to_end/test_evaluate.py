"""``mcti evaluate``: a trained set, a given split, several gammas, cross-validation, and label errors."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from mcti_core.data.dataset import FewShotDataset
from mcti_core.pocket.digits import digit_dataset, write_class_folders

from .command_line import run

QUICK = "--steps 1 --batch-size 2"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """``photos/`` with four images of each of three digits, ``test/`` with three of two of them, and tokens."""
    path = tmp_path_factory.mktemp("evaluate")
    digits = digit_dataset()
    rows = [(digits.labels == label).nonzero()[:7, 0] for label in (0, 1, 4)]
    for name, count, skip, classes in (("photos", 4, 0, 3), ("test", 3, 4, 2)):
        chosen = torch.cat([row[skip : skip + count] for row in rows[:classes]])
        images = tuple(digits.images[row] for row in chosen.tolist())
        labels = torch.arange(classes).repeat_interleave(count)
        write_class_folders(FewShotDataset(("zero", "one", "four")[:classes], images, labels), path / name)
    assert run(f"train {path / 'photos'} --output-dir {path / 'learned'} --steps 2 --batch-size 3") == 0
    return path


def test_evaluate_tokens_writes_figures_that_agree_and_pictures(place, tmp_path, capsys):
    out = tmp_path / "out"
    line = f"evaluate {place / 'test'} --tokens {place / 'learned'} --output-dir {out}"
    line += f" --output-json {tmp_path / 'x.json'}"
    assert run(line) == 0
    record = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert record == json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    matrix = torch.tensor(record["confusion_matrix"])
    assert record["classes"] == ["four", "one", "zero"]
    assert matrix.sum(1).tolist() == [0, 3, 3]
    assert record["accuracy"] == pytest.approx(int(matrix.diagonal().sum()) / 6)
    assert sum(each["images"] for each in record["calibration"]) == record["images"] == 6
    wrong = record["most_confidently_wrong"]
    assert len(wrong) == 6 - int(matrix.diagonal().sum())
    assert all(Path(each["image"]).parent.name == each["label"] != each["predicted"] for each in wrong)
    assert [each["confidence"] for each in wrong] == sorted((each["confidence"] for each in wrong), reverse=True)
    assert (out / "wrong.png").exists() == bool(wrong)
    with Image.open(out / "confusion.png") as picture:
        assert picture.width > 300
    shown = capsys.readouterr().out
    assert f"accuracy {100 * record['accuracy']:.1f} % of 6 images; chance 33.3 %" in shown
    assert run(line) == 1  # results are only replaced with --overwrite
    assert run(f"{line} --overwrite") == 0


def test_evaluate_tokens_on_its_own_examples_says_so(place, capsys):
    assert run(f"evaluate {place / 'photos'} --tokens {place / 'learned'}") == 0
    assert "12 of 12 images are the same as images that the tokens were learned from" in capsys.readouterr().err


def test_evaluate_tokens_of_other_classes_is_refused(place, tmp_path, capsys):
    shutil.copytree(place / "test" / "one", tmp_path / "test" / "seven")
    assert run(f"evaluate {tmp_path / 'test'} --tokens {place / 'learned'}") == 1
    assert "the tokens have no class 'seven'; they have four, one, zero" in capsys.readouterr().err


def test_evaluate_given_split_compares_gammas_on_the_test_images(place, tmp_path, capsys):
    shutil.copytree(place / "test", tmp_path / "test")
    line = f"--test {tmp_path / 'test'} --gamma 0 auto 0.1 --output-json {tmp_path / 'rows.json'} --seeds 1"
    assert run(f"evaluate --train {place / 'photos'} {line} {QUICK}") == 0
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]
    methods = [row["method"] for row in rows]
    compared = [f"MC-TI, gamma {gamma}{kind}" for gamma in ("auto", "0.1") for kind in ("", " hybrid")]
    assert methods[-5:] == ["TI", *compared]
    assert {(row["queries"], row["shots"], row["near_duplicates"]) for row in rows} == {(6, 4, 0)}


def test_evaluate_folds_tests_every_image_once(place, tmp_path):
    assert run(f"evaluate {place / 'photos'} --folds 2 {QUICK} --output-json {tmp_path / 'rows.json'}") == 0
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]
    assert [row["seed"] for row in rows if row["method"] == "MC-TI"] == [0, 1]
    assert sum(row["queries"] for row in rows if row["method"] == "MC-TI") == 12


def test_evaluate_label_errors_ranks_the_moved_image_first(place, tmp_path, capsys):
    photos = shutil.copytree(place / "photos", tmp_path / "photos")
    moved = sorted((photos / "four").iterdir())[0].rename(photos / "zero" / "moved.png")
    page = tmp_path / "page.html"
    assert run(f"evaluate {photos} --label-errors --output-json {tmp_path / 'x.json'} --review {page}") == 0
    first = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["likely_label_errors"][0]
    assert (first["image"], first["label"], first["suggested"]) == (str(moved), "zero", "four")
    assert f"{moved}\tzero\tlooks like four" in capsys.readouterr().out
    assert f'data-image="{moved}"' in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "give one folder to split, or --train and --test"),
        ("photos --train photos --test test", "give one folder to split"),
        ("--train photos", "give one folder to split"),
        ("test --tokens learned --shots 1", "train nothing, so leave out --shots"),
        ("test --tokens learned --label-errors", "--label-errors does not go with --tokens"),
        ("photos --folds 2 --shots 1", "--folds does not go with --shots"),
        ("photos --review page.html", "--review goes with --label-errors"),
        ("photos --output-dir measured", "--output-dir and --method go with --tokens"),
        ("--train photos --test other", "the tokens have no class 'seven'"),
    ],
)
def test_evaluate_options_that_do_not_go_together_get_a_sentence(place, monkeypatch, capsys, line, sentence):
    monkeypatch.chdir(place)
    Path("other").mkdir(exist_ok=True)
    shutil.copytree("test/one", "other/seven", dirs_exist_ok=True)
    assert run(f"evaluate {line}") == 1
    assert sentence in capsys.readouterr().err
