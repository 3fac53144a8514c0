"""A few hundred inputs of ``python -m tests.fuzz``, and every mistake that it has found."""

import io
import json
import sys
import zipfile

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from mcti_core.cli.parser import main
from mcti_core.errors import ConfigError, ExamplesError, ResumeError, TokenError
from mcti_core.images.reading import load_image
from mcti_core.tokens.formats import read_embedding
from mcti_core.tokens.io import load_tokens, save_tokens
from mcti_core.tokens.names import safe_names
from mcti_core.training.checkpoint import load_checkpoint, save_checkpoint
from mcti_core.training.config import TrainConfig

from .mutations import bytes_changed, call, number_op, text_op
from .runner import fuzz
from .seeds import token_set, training


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("token files", 300),
        ("images", 60),
        ("settings", 100),
        ("prompts", 200),
        ("folders", 60),
        ("options", 100),
        ("outputs", 150),
    ],
)
def test_a_result_or_a_refusal(kind, count, tmp_path):
    assert fuzz(kind, "tests", list(range(count)), tmp_path / "kept")


def test_a_broken_law_is_reported_and_the_file_kept(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules[fuzz.__module__].MEBIBYTES, "token files", -1)
    assert not fuzz("token files", "tests", [5], tmp_path / "kept")
    assert "token files 5 of seed tests: took" in capfd.readouterr().err
    assert list((tmp_path / "kept").iterdir())


def archive(path, pickle: bytes):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + pickle + b".")
        file.writestr("archive/version", "3\n")
        file.writestr("archive/data/0", bytes(4 * 768))
    return path


class TestPickles:
    """What PyTorch's reader for plain content takes: memory, time, or the process would have gone."""

    @pytest.mark.parametrize(
        "name", ["builtins.bytearray", "torch.Tensor", "torch.FloatTensor", "torch.storage.UntypedStorage"]
    )
    def test_memory_as_much_as_the_file_says(self, name, tmp_path):
        with pytest.raises(TokenError, match="it names"):
            read_embedding(archive(tmp_path / "x.pt", call(name, number_op(2**40))))

    def test_a_key_whose_hash_never_ends(self, tmp_path):
        doubled = b")q\0" + b"h\0h\0\x86q\0" * 60
        with pytest.raises(TokenError, match="nested"):
            read_embedding(archive(tmp_path / "x.pt", b"}(" + doubled + b"Nu"))

    def test_a_key_too_deep_to_be_hashed(self, tmp_path):
        with pytest.raises(TokenError, match="nested"):
            read_embedding(archive(tmp_path / "x.pt", b"}" + b")" + b"\x85" * 200_000 + b"Ns"))
        with pytest.raises(TokenError, match="bytes; embeddings have a few hundred"):
            read_embedding(archive(tmp_path / "x.pt", text_op("x" * 2**18)))

    def test_the_name_in_capitals_is_looked_at_too(self, tmp_path):
        path = archive(tmp_path / "x.pt", b"}")
        content = path.read_bytes().replace(b"data.pkl", b"DATA.PKL")
        assert torch.load(io.BytesIO(content), weights_only=True) == {}  # PyTorch does not mind the case
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/DATA.PKL", b"\x80\x02" + call("builtins.bytearray", number_op(2**40)) + b".")
            file.writestr("archive/version", "3\n")
        with pytest.raises(TokenError, match="it names builtins bytearray"):
            read_embedding(path)


@pytest.mark.parametrize("key", ["labels", "training", "templates"])
def test_values_nested_without_end(key, tmp_path):
    path = save_tokens(token_set(), tmp_path / "x")
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {**metadata, key: "[" * 100_000})
    with pytest.raises(TokenError, match=key):
        load_tokens(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_postscript_is_not_handed_to_another_program(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    with pytest.raises(ExamplesError, match="cannot be read as an image"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_metadata_that_is_cut_off(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    Image.new("RGB", (8, 8)).save(path, exif=b"Exif\0\0II*\0")
    with pytest.raises(ExamplesError, match="cannot be read as an image"):
        load_image(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 1.5}, "steps must be a whole number, got 1.5"),
        ({"steps": float("nan")}, "steps must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
        ({"gamma": None}, "gamma must be a number or 'auto', got None"),
        ({"pooling": 3}, "pooling must be a word"),
        ({"templates": "a {}"}, "templates must be a list of texts"),
        ({"templates": (3,)}, "templates must be a list of texts"),
        ({"seed": 2**64}, r"seed must be below 2\*\*64"),
        ({"lr": 10**400}, r"lr must be below 2\*\*64"),
        ({"steps": 10**5000}, r"steps must be below 2\*\*64"),
    ],
)
def test_settings_of_another_kind(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    "line", ["generate --tokens t --prompt {} --seed", "demo --output-dir d --seed", "evaluate f --first-seed"]
)
@pytest.mark.parametrize("seed", ["-1", "9223372036854775808", "9" * 5000, "x"])
def test_seeds_that_no_generator_takes(line, seed, capsys):
    with pytest.raises(SystemExit):
        main([*line.split(), seed])
    assert "seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("identity", 3), ("identity", {"model": 3}), ("losses", {}),
        ("batches", []), ("batches", {"turn": 3}), ("batches", {"turn": ["a"]}),
    ],
)  # fmt: skip
def test_load_checkpoint_with_wrong_content_is_refused(key, value, tmp_path):
    path = save_checkpoint(training(), tmp_path / "training.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata | {key: json.dumps(value)})
    with pytest.raises(ResumeError, match="damaged"):
        load_checkpoint(path)


def test_names_that_windows_keeps_for_itself():
    assert safe_names(["COM¹", "lpt³", "con"]) == ("COM¹-token", "lpt³-token", "con-token")


def test_the_same_seed_makes_the_same_input():
    from random import Random

    made = [bytes_changed(Random("a"), bytes(1000), [b"x" * 50]) for _ in range(2)]
    assert made[0] == made[1]
