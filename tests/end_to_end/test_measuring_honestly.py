"""Measurements that are worth less than they look are reported, and impossible ones are refused before the work."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcti_core.cli.answer_formats import json_line
from mcti_core.cli.parser import _parser
from mcti_core.hosts.diffusers import clip_space
from mcti_core.tokens.io import save_tokens
from mcti_core.tokens.token_set import TokenSet

from .command_line import messages, run

SHORT = "--steps 1 --batch-size 2 --classification-only-steps 0"


def write(path: Path, seed: int, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(path, **options)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes of three different images."""
    for number in range(3):
        write(tmp_path / "photos" / "cat" / f"{number}.png", number)
        write(tmp_path / "photos" / "dog" / f"{number}.png", number + 10)
    return tmp_path / "photos"


@pytest.fixture
def no_work(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("it began to work")

    for name in ("train", "evaluate", "classify"):
        monkeypatch.setattr(f"mcti_core.cli.{name}.host_of", refuse)


@pytest.mark.parametrize(
    ("name", "options"), [("copy.png", {}), ("copy.jpg", {"quality": 40}), ("copy.webp", {"quality": 50})]
)
def test_evaluate_of_a_folder_with_copies_names_them(photos, tmp_path, capsys, name, options):
    for number in range(3):
        write(photos / "cat" / f"{number}-{name}", number, **options)
    write(photos / "dog" / "3.png", 13)
    assert run(f"evaluate {photos} --shots 3 --seeds 2 {SHORT} --output-json {tmp_path / 'rows.json'}") == 0
    captured = capsys.readouterr()
    assert re.search(r"\d+ % of the images to test on are the same .* \(cat/\S+ and cat/\S+", captured.err)
    assert "| (test images that are copies of examples) |" in captured.out
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all(0 < row["near_duplicates"] < row["queries"] for row in rows)


def test_evaluate_of_a_folder_without_copies_says_nothing_of_them(photos, capsys):
    assert run(f"evaluate {photos} --seeds 1 {SHORT}") == 0
    captured = capsys.readouterr()
    assert "mcti: " not in captured.err
    assert "copies" not in captured.out
    assert "| method | 1 shot | 2 shots |" in captured.out  # those of 1, 2, 4, 8 that leave one of three images


@pytest.mark.parametrize("command", ["train", "evaluate", "add"])
def test_command_with_one_image_in_two_classes_names_it(command, photos, tmp_path, capsys):
    write(photos / "dog" / "wrong.jpg", 1)
    learned = save_tokens(TokenSet(("x", "y"), {"clip_l": torch.randn(2, 1, 96) / 9}), tmp_path / "set")
    options = {
        "train": f"--output-dir {tmp_path / 'out'}",
        "add": f"--tokens {learned} --output-dir {tmp_path / 'out'} --gamma 0",
        "evaluate": "--shots 1 --seeds 1",
    }[command]
    assert run(f"{command} {photos} {options} {SHORT}") == 0
    same = "1 image is in more than one class, or nearly the same as one of another class (cat/1.png and dog/wrong.jpg)"
    assert same in "".join(messages(capsys))


def test_add_of_an_image_that_is_known_as_another_class_names_it(photos, tmp_path, capsys):
    assert run(f"train {photos} --output-dir {tmp_path / 'set'} {SHORT}") == 0
    more = tmp_path / "more"
    write(more / "new" / "0.png", 77)
    write(more / "new" / "1.png", 1)
    write(more / "cat" / "2.png", 2)  # which is right as the class that it is of
    capsys.readouterr()
    assert run(f"add {more} --tokens {tmp_path / 'set'} --output-dir {tmp_path / 'out'} {SHORT}") == 0
    assert "1 image was learned as another class before (new/1.png of cat)" in "".join(messages(capsys))


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_shots_beyond_the_images_are_refused_before_the_work(command, photos, tmp_path, no_work, capsys):
    out = f"--output-dir {tmp_path / 'out'}" if command == "train" else ""
    assert run(f"{command} {photos} {out} --shots 4") == 1
    assert "class 'cat' has 3 images: too few for 4 shots" in messages(capsys)[-1]
    assert not (tmp_path / "out").exists()


def test_train_on_as_many_shots_as_there_are_images_needs_none_to_test_on(photos, tmp_path):
    assert run(f"train {photos} --output-dir {tmp_path / 'out'} --shots 3 {SHORT}") == 0


def test_evaluate_of_classes_of_one_image_says_what_it_needs(tmp_path, no_work, capsys):
    write(tmp_path / "photos" / "cat" / "0.png", 1)
    for number in range(9):
        write(tmp_path / "photos" / "dog" / f"{number}.png", number + 2)
    assert run(f"evaluate {tmp_path / 'photos'}") == 1
    assert "class 'cat' has 1 image; to evaluate, every class needs at least two" in messages(capsys)[-1]


@pytest.mark.parametrize(
    ("given", "meant"),
    [("90", "0.9"), ("90%", "0.9"), ("0.5%", "0.005"), ("100", "1"), ("1%", "0.01"), ("nan", ""), ("inf", ""), ("-0.1", ""), ("0,9", ""), ("", ""), ("900", ""), ("nan%", "")],
)  # fmt: skip
def test_threshold_that_is_no_confidence_is_refused_with_the_number_that_is_meant(given, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        run("classify photos --tokens x.safetensors", f"--threshold={given}")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "--threshold: must be a number from 0 to 1, got" in error
    assert (f"% write {meant}" in error) == bool(meant)


@pytest.mark.parametrize("given", ["0", "1", "0.25", " .5 ", "1e-3"])
def test_threshold_from_0_to_1_is_taken(given):
    arguments = _parser().parse_args(["classify", "photos", "--tokens", "x", f"--threshold={given}"])
    assert arguments.threshold == float(given)


@pytest.mark.parametrize("out", [False, True])
def test_classify_by_a_model_that_gives_no_numbers_answers_nothing(photos, tmp_path, monkeypatch, capsys, out):
    learned = save_tokens(TokenSet(("x", "y"), {"clip_l": torch.randn(2, 1, 96) / 9}), tmp_path / "set")
    real = clip_space.ClipModelSpace.image_features
    broken = lambda self, images: real(self, images) * float("nan")  # noqa: E731
    monkeypatch.setattr(clip_space.ClipModelSpace, "image_features", broken)
    output = f"--output {tmp_path / 'x.jsonl'}" if out else ""
    assert run(f"classify {photos / 'cat'} --tokens {learned} --json {output}") == 1
    captured = capsys.readouterr()
    assert "scores are not numbers" in captured.err
    assert captured.out == ""
    assert not out or (tmp_path / "x.jsonl").read_bytes() == b""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_line_never_holds_what_is_no_json(value):
    for encoding in ("utf-8", "ascii"):
        with pytest.raises(ValueError, match="JSON compliant"):
            json_line({"image": "猫.png", "confidence": value}, encoding)
