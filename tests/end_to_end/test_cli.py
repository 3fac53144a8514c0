import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from mcti_core.cli import train
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.evaluation.baselines import BASELINES
from mcti_core.files import provenance
from mcti_core.pocket.digits import draw_digits, write_class_folders
from mcti_core.tokens.io import load_tokens
from mcti_core.training import step

from .command_line import run

ROOT = Path(__file__).parents[2]
CLASSES = ("ring", "bar", "cross")


def pen_masks(count: int) -> torch.Tensor:
    """Three shapes, ``count`` of each a little different: (3 * count, 72, 72) uint8."""
    y, x = torch.meshgrid(torch.arange(72.0), torch.arange(72.0), indexing="ij")
    masks = []
    for shape in CLASSES:
        for number in range(count):
            across, down = x - 34 - number, y - 38 + number
            distance = {
                "ring": ((across.square() + down.square()).sqrt() - 18 - number).abs(),
                "bar": across.abs().maximum(down.abs() - 24),
                "cross": across.abs().minimum(down.abs()).maximum(across.abs().maximum(down.abs()) - 22),
            }[shape]
            masks.append((distance < 3.5 + number / 4) * 255)
    return torch.stack(masks).byte()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three class folders of four images each."""
    path = tmp_path_factory.mktemp("shapes")
    labels = torch.arange(3).repeat_interleave(4)
    write_class_folders(FewShotDataset(CLASSES, tuple(draw_digits(pen_masks(4), seed=1)), labels), path)
    return path


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory) -> Path:
    """What a short training has written."""
    out = tmp_path_factory.mktemp("trained") / "new" / "folder"
    assert run(f"train {folder} --output-dir {out} --steps 3 --batch-size 3 --seed 5") == 0
    return out


def fails(capsys, line: str, *words: object) -> str:
    """The one line that a mistake makes."""
    capsys.readouterr()
    assert run(line, *words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("mcti: ")
    assert "Traceback" not in line
    return line


def records(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_training_writes_everything(trained):
    written = {path.name for path in trained.iterdir()}
    assert written == {"embeddings", "loss.png", "README.md", "run.toml", "tokens.safetensors"}
    names = [path.name for path in sorted((trained / "embeddings").iterdir())]
    assert names == ["bar.safetensors", "cross.safetensors", "ring.safetensors"]
    tokens = load_tokens(trained / "tokens.safetensors")
    assert tokens.labels == ("bar", "cross", "ring")
    assert [tokens.training[name] for name in ("steps", "batch_size", "seed", "shots")] == [3, 3, 5, 4]
    assert tokens.support is not None
    with Image.open(trained / "loss.png") as picture:
        picture.verify()


def test_training_says_what_it_did(folder, tmp_path, capsys):
    options = "--steps 2 --gamma 0 --shots 2 --num-vectors 2 --initializer-token mean --template"
    assert run(f"train {folder} --output-dir {tmp_path} {options}", "the {}") == 0
    captured = capsys.readouterr()
    assert "finished" in captured.out
    assert "3 tokens in" in captured.out
    tokens = load_tokens(tmp_path / "tokens.safetensors")
    assert tokens.vectors_per_token == 2
    assert tokens.templates == ("the {}",)
    assert (tokens.training["gamma"], tokens.training["shots"]) == (0.0, 2)


def test_masks_that_leave_nothing_out_are_reported(folder, tmp_path, capsys):
    options = "--steps 1 --batch-size 2 --masks alpha"
    assert run(f"train {folder} --output-dir {tmp_path / 'opaque'} {options}") == 0
    assert "mcti: --masks changes nothing: no image has transparent parts" in capsys.readouterr().err
    shutil.copytree(folder, there := tmp_path / "photos")
    image = next(there.glob("*/*.png"))
    picture = Image.open(image).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, picture.width // 2, picture.height))
    picture.save(image)
    assert run(f"train {there} --output-dir {tmp_path / 'cut-out'} {options}") == 0
    assert "changes nothing" not in capsys.readouterr().err


def test_a_cache_gives_the_same_tokens(folder, tmp_path, trained):
    for out in (tmp_path / "first", tmp_path / "second"):
        options = f"--steps 3 --batch-size 3 --seed 5 --cache {tmp_path / 'cache'}"
        assert run(f"train {folder} --output-dir {out} {options}") == 0
        learned = load_tokens(out / "tokens.safetensors").vectors["clip_l"]
        assert torch.equal(learned, load_tokens(trained / "tokens.safetensors").vectors["clip_l"])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_training_without_clip_space_is_plain_textual_inversion(folder, tmp_path, tiny_model, capsys):
    options = f"--model {tiny_model} --steps 2 --classification-only-steps 1"
    assert run(f"train {folder} --output-dir {tmp_path} {options}") == 0
    assert "gamma 0" in capsys.readouterr().err
    tokens = load_tokens(tmp_path / "tokens.safetensors")
    assert tokens.training["gamma"] == 0
    assert tokens.support is None


def test_keep_norm_gives_every_token_the_length_of_a_word(folder, tmp_path):
    assert run(f"train {folder} --output-dir {tmp_path} --steps 2 --batch-size 2 --keep-norm") == 0
    vectors = load_tokens(tmp_path / "tokens.safetensors").vectors["clip_l"]
    assert vectors.norm(dim=-1).numpy() == pytest.approx(0.98, abs=1e-3)  # the pocket checkpoint's median


def test_gamma_auto_is_recorded_and_shown(folder, tmp_path, capsys):
    line = f"train {folder} --output-dir {tmp_path} --steps 2 --batch-size 2 --gradient-ratio 0.5"
    assert run(f"{line} --gamma auto") == 0
    training = load_tokens(tmp_path / "tokens.safetensors").training
    assert (training["gamma"], training["gradient_ratio"]) == ("auto", 0.5)
    assert f"gamma {training['gamma_last']:.2g} at the end" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(f"{line} --gamma much")
    assert "must be a number of 0 or more, or auto, got 'much'" in capsys.readouterr().err


@pytest.mark.parametrize("steps_done", [0, 2])
def test_ctrl_c_keeps_the_tokens(folder, tmp_path, monkeypatch, capsys, steps_done):
    """After a step, and in the very first one before it is done."""

    def interrupt(*arguments):
        raise KeyboardInterrupt

    @contextmanager
    def bar(description, unit, **options):
        yield lambda done, total: interrupt() if description == "training" and done == steps_done else None

    monkeypatch.setattr(train, "progress_bar", bar)
    if not steps_done:
        monkeypatch.setattr(step, "batch_classification_loss", interrupt)
    assert run(f"train {folder} --output-dir {tmp_path} --steps 9") == 130
    captured = capsys.readouterr()
    assert f"interrupted after {steps_done} steps" in captured.out
    assert "Traceback" not in captured.err
    assert load_tokens(tmp_path / "tokens.safetensors").labels == ("bar", "cross", "ring")
    assert (tmp_path / "loss.png").is_file() == (steps_done > 0)


def test_ctrl_c_elsewhere_ends_quietly(folder, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureCache, "build", interrupt)
    assert run(f"train {folder} --output-dir {tmp_path}") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "mcti: interrupted"


def test_a_diverged_training_keeps_the_last_finite_tokens(folder, tmp_path, monkeypatch, capsys):
    plain, steps = step.batch_classification_loss, []

    def diverge(*arguments):
        steps.append(1)
        return plain(*arguments) * (torch.nan if len(steps) == 3 else 1)

    monkeypatch.setattr(step, "batch_classification_loss", diverge)
    assert run(f"train {folder} --output-dir {tmp_path} --steps 9") == 1
    assert "the loss of step 3 is not a finite number" in capsys.readouterr().err
    assert load_tokens(tmp_path / "tokens.safetensors").vectors["clip_l"].isfinite().all()


@pytest.mark.parametrize("method", ["auto", "hybrid", "cascade", "diffusion"])
def test_classify_prints_one_object_an_image(folder, trained, capsys, method):
    image, tokens = min((folder / "bar").iterdir()), trained / "tokens.safetensors"
    assert run(f"classify {folder / 'ring'} {image} --tokens {tokens} --json --top 2 --method {method}") == 0
    answers = records(capsys.readouterr().out)
    assert [Path(answer["image"]).parent.name for answer in answers] == ["ring"] * 4 + ["bar"]
    labels = load_tokens(tokens).labels
    for answer in answers:
        assert set(answer) == {"image", "label", "unknown", "index", "confidence", "top", "unet_evaluations"}
        assert answer["label"] == labels[answer["index"]] == answer["top"][0]["label"]
        assert len(answer["top"]) == 2
        assert 1 >= answer["confidence"] == answer["top"][0]["confidence"] >= answer["top"][1]["confidence"] >= 0
        assert (answer["unet_evaluations"] > 0) == (method in ("cascade", "diffusion"))


def test_classify_in_any_batch(folder, trained, capsys):
    outputs = []
    for batch in ("1", "3", "32"):
        assert run(f"classify {folder / 'cross'} --tokens {trained} --json --batch-size {batch}") == 0
        outputs.append(records(capsys.readouterr().out))
    for answers in outputs[1:]:
        assert [answer["image"] for answer in answers] == [answer["image"] for answer in outputs[0]]
        for answer, first in zip(answers, outputs[0], strict=True):
            assert answer["label"] == first["label"]
            assert answer["confidence"] == pytest.approx(first["confidence"], abs=1e-4)


def test_classify_for_people(folder, trained, capsys):
    assert run(f"classify {folder / 'ring'} --tokens {trained} --top 9") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for line in lines:
        path, label, best = line.split("\t")
        assert Path(path).is_file()
        assert best.startswith(f"{label} ")
        assert best.count("%") == 3


def test_an_unreadable_image_does_not_stop_the_others(folder, trained, tmp_path, capsys):
    images = Path(shutil.copytree(folder / "ring", tmp_path / "images"))
    (images / "0000b.png").write_bytes(b"no picture")
    assert run(f"classify {images} --tokens {trained} --json") == 1
    captured = capsys.readouterr()
    assert len(records(captured.out)) == 4
    (line,) = captured.err.splitlines()
    assert "0000b.png" in line
    assert run(f"classify {images / '0000b.png'} --tokens {trained} --json") == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("option", ["--threshold 1", "--reject-unknown"])
def test_below_the_threshold_is_unknown(folder, trained, capsys, option):
    images = (folder / name for name in CLASSES)
    assert run(f"classify --tokens {trained} --json {option}", *images) == 0
    answers = records(capsys.readouterr().out)
    unknown = [answer["unknown"] for answer in answers]
    assert [answer["index"] == -1 for answer in answers] == [answer["label"] is None for answer in answers] == unknown
    assert all(answer["top"][0]["label"] in CLASSES for answer in answers)
    if option == "--reject-unknown":
        assert sum(unknown) <= 3  # all but a few of the examples themselves are to be known
    else:
        assert all(unknown)


@pytest.mark.parametrize("prompt", ["a red {}-like thing", "a drawing of embedding:ring"])
def test_generate_writes_images(trained, tmp_path, prompt, capsys):
    out = tmp_path / "new" / "images"
    options = f"--output-dir {out} --num-images 2 --num-inference-steps 2"
    assert run(f"generate --tokens {trained} {options} --prompt", prompt) == 0
    files = sorted(out.iterdir())
    names = ("bar", "cross", "ring") if "{}" in prompt else ("image",)
    assert [path.name for path in files] == [f"{name}-{number:02d}.png" for name in names for number in range(2)]
    for path in files:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((64, 64), "RGB")
    assert f"{len(files)} images in" in capsys.readouterr().out


def test_evaluate_writes_rows_as_they_come(folder, tmp_path, monkeypatch, capsys):
    states, plain = [], provenance.write_own

    def watched(path, write, is_own):
        plain(path, write, is_own)
        states.append(len(json.loads(Path(path).read_text(encoding="utf-8"))["rows"]))

    monkeypatch.setattr(provenance, "write_own", watched)
    out = tmp_path / "rows" / "all.json"
    assert run(f"evaluate {folder} --shots 1 2 --seeds 1 --steps 1 --batch-size 2 --output-json {out}") == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    assert (content["classes"], content["chance"], content["folder"]) == (3, 1 / 3, folder.name)
    assert states == list(range(1, len(content["rows"]) + 1))
    methods = [*BASELINES, "TI", "MC-TI", "MC-TI hybrid"]
    assert [(row["shots"], row["method"]) for row in content["rows"]] == [(s, m) for s in (1, 2) for m in methods]
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| method | 1 shot | 2 shots |"
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {name}" for name in ("chance", *methods)]


def test_missing_folders_and_files(tmp_path, trained, folder, capsys):
    nowhere = tmp_path / "nowhere"
    for line in (
        f"train {nowhere} --output-dir {tmp_path}",
        f"train {folder} --output-dir {tmp_path} --model {nowhere}",
        f"evaluate {nowhere}",
        f"classify {nowhere} --tokens {trained}",
        f"classify {folder} --tokens {nowhere}",
        f"generate --prompt {{}} --tokens {nowhere}",
    ):
        assert str(nowhere) in fails(capsys, line)
    assert "no images in" in fails(capsys, f"classify {folder} --tokens {trained}")  # it contains folders only


def test_one_class_is_too_few(folder, tmp_path, capsys):
    shutil.copytree(folder / "ring", tmp_path / "ring")
    assert "at least two classes" in fails(capsys, f"train {tmp_path} --output-dir {tmp_path / 'out'}")


def test_places_that_cannot_be_written(folder, trained, tmp_path, capsys):
    (tmp_path / "file").write_text("here first")
    inside = tmp_path / "file" / "out"
    assert "file" in fails(capsys, f"train {folder} --output-dir {inside}")
    assert "file" in fails(capsys, f"generate --tokens {trained} --prompt {{}} --output-dir {inside}")


@pytest.mark.parametrize(
    "line",
    [
        "", "train x", "classify x --tokens y --top 0", "classify x --tokens y --batch-size -3", "classify x --tokens y --method magic",
        "generate --tokens y --prompt z --num-images none", "train x --output-dir y --num-vectors 0", "evaluate x --seeds 0",
        "train x --out y",
    ],
)  # fmt: skip
def test_a_command_that_makes_no_sense_shows_its_usage(line, capsys):
    with pytest.raises(SystemExit) as caught:
        run(line)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: mcti")


def python(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_it_runs_as_a_module():
    done = python("-m", "mcti_core", "--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("train", "classify", "evaluate", "generate", "demo"))
    assert done.stderr == ""


def test_importing_costs_nothing():
    heavy = "{'torch', 'numpy', 'transformers', 'diffusers', 'PIL', 'sklearn'}"
    done = python("-c", f"import sys, mcti_core, mcti_core.cli.parser; print(sorted({heavy} & set(sys.modules)))")
    assert done.stdout.strip() == "[]"
    assert done.returncode == 0


def test_public_names_are_there_on_first_use():
    code = "print(set(m.__all__) <= set(dir(m)), all(getattr(m, name) for name in m.__all__), hasattr(m, 'other'))"
    done = python("-c", f"import mcti_core as m; {code}")
    assert done.stdout.split() == ["True", "True", "False"], done.stderr
