"""Invalid command lines are refused in one sentence, before a model is loaded or a file is written."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import mcti_core.pocket
from mcti_core.hosts.diffusers import host
from mcti_core.tokens.io import save_tokens
from mcti_core.tokens.token_set import Support, TokenSet

from .command_line import run

BAD_NUMBERS = ("nan", "inf", "-inf", "-1", "", "much", "1e999", "0x10", "1" * 5000)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A home folder; token sets of two classes with one example and with two, examples, and no model to be had."""

    def load(*_, **__):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(mcti_core.pocket, "load_pocket", load)
    monkeypatch.setattr(host, "load_host", load)
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    Path("home").mkdir()
    features = torch.nn.functional.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    for name, support in (
        ("one", Support(features[:2], torch.tensor([0, 1]))),
        ("two", Support(features, torch.tensor([0, 0, 1, 1]))),
        ("none", None),
    ):
        save_tokens(TokenSet(("a", "b"), {"clip_l": torch.ones(2, 1, 64)}, support=support), f"{name}.safetensors")
    for label in ("a", "b"):
        Path("photos", label).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (64, 64), (40 * number, 10, 10)).save(Path("photos", label, f"{number}.png"))
    Path("folder").mkdir()
    Path("file").write_text("not ours")
    return tmp_path


def _answer(capsys, line, *words):
    """Exit code and the sentence; nothing else may be said, and nothing written."""
    before = sorted(map(str, Path().rglob("*")))
    try:
        code = run(line, *words)
    except SystemExit as error:
        code = error.code
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert sorted(map(str, Path().rglob("*"))) == before
    return code, told.strip().splitlines()[-1]


OPTIONS = {
    "train": ("steps", "batch-size", "micro-batch-size", "lr", "gamma", "gamma-end", "gradient-ratio", "classification-only-steps", "seed", "shots",
              "num-vectors", "save-every"),
    "classify": ("top", "threshold", "batch-size", "num-workers"),
    "evaluate": ("shots", "seeds", "first-seed", "lr"),
    "generate": ("num-images", "num-inference-steps", "guidance-scale", "seed"),
    "demo": ("shots", "seed"),
}  # fmt: skip
COMMANDS = {
    "train": "train photos --output-dir new",
    "classify": "classify photos/a --tokens two.safetensors",
    "evaluate": "evaluate photos",
    "generate": "generate --tokens two.safetensors --prompt {a}",
    "demo": "demo --output-dir new",
}


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, options in OPTIONS.items() for o in options])
def test_numeric_option_out_of_range_is_refused_by_name(place, capsys, command, option):
    bad = [value for value in BAD_NUMBERS if not (option == "guidance-scale" and value == "-1")]
    positive = {"steps", "batch-size", "lr", "shots", "num-images", "num-inference-steps", "top", "seeds", "num-vectors", "num-workers"}  # fmt: skip
    bad += ["0"] if option in positive else []
    for value in bad:
        code, told = _answer(capsys, COMMANDS[command], f"--{option}={value}")
        assert code == 2
        assert f"argument --{option}: must be a" in told
        assert len(told) < 300


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("classify photos/a --tokens two.safetensors --output folder", "'folder' is a folder; name a file, as in 'folder/answers.jsonl'"),
        ("classify photos/a --tokens two.safetensors --output new/", "'new/' is a folder; name a file"),
        ("evaluate photos --output-json folder", "'folder' is a folder; name a file, as in 'folder/accuracies.json'"),
        ("train photos --output-dir file", "'file' is a file; name a folder"),
        ("train photos --output-dir learned.safetensors", "is a file's name; name a folder, as in 'learned'"),
        ("generate --tokens two.safetensors --prompt {a} --output-dir cat.png", "is a file's name; name a folder, as in 'cat'"),
        ("add photos --tokens two.safetensors --output-dir file", "'file' is a file; name a folder"),
        ("demo --output-dir report.html", "is a file's name; name a folder, as in 'report'"),
        ("train photos --output-dir new --cache file", "'file' is a file; name a folder"),
        ("convert two.safetensors --format set --output folder/", "folder is a folder; name the set's file"),
        ("convert two.safetensors --format set --output new/", "new is a folder; name the set's file"),
        ("convert two.safetensors --format embeddings --output new.safetensors", "is a file's name"),
        ("convert two.safetensors --format set --output new.pt", "a token set is written as .safetensors only; name new.safetensors"),
        ("convert two.safetensors --format set --output new --layout diffusers", "--layout is of embeddings"),
        ("train photos --output-dir=", "must be a path, got ''"),
        ("train photos --output-dir=~nobody-of-this-name/x", "the home folder of an unknown user"),
        ("train photos --output-dir new --device gpu", "the device 'gpu' is not known; give auto, cpu, cuda"),
        ("train photos --output-dir new --model file", "file is not a checkpoint; give a diffusers folder, or a file that ends in"),
        ("add photos --tokens two.safetensors --output-dir new", "the set already has a, b"),
        ("classify photos --tokens two.safetensors", "no images in photos (2 folders skipped: --recursive includes"),
        ("classify photos/a --tokens folder", "folder is a folder without a token set; name the set's file"),
        ("classify photos/a --tokens photos/a", "photos/a is a folder"),
        ("generate --prompt {a} --tokens cat.pt", "cat.pt is not a token set but an embedding; make a set of it with: mcti convert cat.pt"),
        ("add photos --output-dir new --tokens embeddings", "embeddings is a folder, and not a token set; make a set of it with: mcti convert"),
        ("classify photos/a --tokens missing", "there is no token set missing"),
        ("classify photos/a --tokens one.safetensors --reject-unknown", "each class of these tokens has one example"),
        ("classify photos/a --tokens none.safetensors --reject-unknown", "no features of their examples"),
        ("classify photos/a --tokens two.safetensors --reject-unknown --threshold 0.5", "not allowed with argument --reject-unknown"),
        ("classify photos/a --tokens two.safetensors --reject-unknown --method diffusion", "give --threshold, or --method clip"),
        ("classify photos/a --tokens two.safetensors --reject-unknown --method cascade", "give --threshold, or --method clip"),
        ("classify photos/a --tokens two.safetensors --reject-unknown --model folder", "--method clip or hybrid with --clip"),
        ("classify photos/a --tokens two.safetensors --method hybrid --model folder", "--method hybrid needs --clip"),
        ("classify photos/a --tokens two.safetensors --clip folder", "--clip goes with --model"),
        ("train photos --output-dir new --model missing", "no model at missing"),
        ("train photos --output-dir new --model folder --clip missing", "--clip takes a transformers CLIPModel folder"),
        ("train photos --output-dir new --model folder --clip file", "which holds config.json; file is a file"),
        ("train photos --output-dir new --model folder --model-config folder", "--model-config goes with a single-file checkpoint"),
        ("train photos --output-dir new --model two.safetensors --model-config folder", "--model-config takes a diffusers folder"),
        ("train photos --output-dir new --gamma 0.1 --gradient-ratio 2", "--gradient-ratio goes with --gamma auto"),
        ("train photos --output-dir new --gamma auto --gamma-end 0.1", "leave gamma_end out"),
        ("train photos --output-dir new --template x{} --templates style", "not allowed with argument"),
        ("train photos --output-dir new --template x", "must contain {} exactly once"),
        ("train photos --output-dir new --gamma 0 --classification-only-steps 3", "no classification term"),
        ("evaluate photos --model folder", "give a CLIP space with --clip"),
        ("evaluate photos --first-seed 9223372036854775807 --seeds 3", "choose a smaller first one"),
        ("generate --tokens two.safetensors --prompt {zebra}", "zebra"),
        ("generate --tokens two.safetensors --prompt embedding:zebra", "'zebra'"),
        ("generate --tokens two.safetensors --prompt {a} --negative-prompt {zebra}", "zebra"),
        ("train photos --output-dir new --device meta", "the device 'meta' cannot be used here"),
        ("train photos --output-dir new --device toaster", "the device 'toaster' is not known"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_get_the_sentence(place, capsys, line, sentence):
    Path("cat.pt").write_bytes(b"PK")
    Path("embeddings").mkdir()
    Path("embeddings", "cat.pt").write_bytes(b"PK")
    code, told = _answer(capsys, line)
    assert code in (1, 2)
    assert sentence in told


@pytest.mark.parametrize("written", ["--output=~/sets/new.safetensors", "--output=~/sets/../sets/new"])
def test_tilde_behind_an_equals_sign_is_the_home_folder(place, written):
    assert run("convert two.safetensors --format set", written) == 0
    assert Path("home", "sets", "new.safetensors").is_file()
    assert not os.path.lexists("~")


def test_tilde_that_is_a_folder_here_is_that_folder(place):
    Path("~").mkdir()
    assert run("convert two.safetensors --format set --output=~/new.safetensors") == 0
    assert Path("~", "new.safetensors").is_file()


def test_tokens_of_a_training_folder_are_its_token_set(place, capsys):
    save_tokens(TokenSet(("a", "b"), {"clip_l": torch.ones(2, 1, 64)}), "learned/tokens.safetensors")
    code, told = _answer(capsys, "generate --tokens learned --prompt {zebra}")
    assert code == 1
    assert "zebra" in told
