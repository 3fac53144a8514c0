"""The command line replaces and removes only its own files, and refuses others before slow work."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from mcti_core.tokens.io import save_tokens
from mcti_core.tokens.token_set import TokenSet

from .command_line import messages, run

THEIRS = b"somebody's own"


@pytest.fixture
def folder(tmp_path) -> Path:
    for label, shade in (("cat", 40), ("dog", 200)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (64, 64), (shade, 90 * number, 0)).save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def learned(tmp_path) -> Path:
    return save_tokens(TokenSet(("cat", "dog"), {"clip_l": torch.randn(2, 1, 96) / 9}), tmp_path / "set")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, capsys, line: str) -> str:
    """A command that ends at once, and changes nothing."""
    before = everything(folder)
    assert run(line) == 1
    assert everything(folder) == before
    (told,) = messages(capsys)
    assert "was not written by MC-TI" in told
    return told


@pytest.mark.parametrize(
    "place",
    ["training.safetensors", "loss.png", "README.md", "run.toml", "tokens.safetensors", "embeddings/cat.safetensors", "embeddings/CAT.pt"],
)  # fmt: skip
@pytest.mark.parametrize("more", ["", "--restart", "--resume"])
def test_train_does_not_replace_files_of_others(folder, tmp_path, capsys, place, more):
    path = tmp_path / "out" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(THEIRS)
    refused(tmp_path, capsys, f"train {folder} --output-dir {tmp_path / 'out'} --steps 1 {more}")


@pytest.mark.parametrize("prompt", ["{}", "{cat}"])
def test_generate_does_not_replace_pictures_of_others(learned, tmp_path, capsys, prompt):
    out = tmp_path / "out"
    out.mkdir()
    Image.new("RGB", (8, 8)).save(out / ("dog-01.png" if prompt == "{}" else "image-01.png"))
    refused(tmp_path, capsys, f"generate --tokens {learned} --prompt {prompt} --num-images 2 --output-dir {out}")


def test_evaluate_does_not_replace_a_file_of_others(folder, tmp_path, capsys):
    (tmp_path / "x.json").write_text('{"a": 1}')
    refused(tmp_path, capsys, f"evaluate {folder} --shots 1 --output-json {tmp_path / 'x.json'}")


@pytest.mark.parametrize("more", ["--restart", "--resume"])
@pytest.mark.parametrize("place", ["x.jsonl", "x.jsonl.part-00001", "x.jsonl.unfinished"])
def test_classify_does_not_remove_files_of_others(folder, learned, tmp_path, capsys, more, place):
    (tmp_path / place).write_bytes(THEIRS)
    refused(tmp_path, capsys, f"classify {folder / 'cat'} --tokens {learned} --output {tmp_path / 'x.jsonl'} {more}")


def test_classify_does_not_write_through_a_link_that_leads_nowhere(folder, learned, tmp_path, capsys):
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "elsewhere")
    assert run(f"classify {folder / 'cat'} --tokens {learned} --output {tmp_path / 'x.jsonl'}") == 1
    assert "is a link" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


def test_demo_does_not_replace_files_of_others(tmp_path, capsys):
    (tmp_path / "report.html").write_text("<html>mine</html>")
    refused(tmp_path, capsys, f"demo --output-dir {tmp_path}")


def test_add_does_not_replace_files_of_others(folder, tmp_path, capsys):
    learned = save_tokens(TokenSet(("x", "y"), {"clip_l": torch.randn(2, 1, 96) / 9}), tmp_path / "set")
    (tmp_path / "out" / "embeddings").mkdir(parents=True)
    (tmp_path / "out" / "embeddings" / "dog.bin").write_bytes(THEIRS)
    refused(tmp_path, capsys, f"add {folder} --tokens {learned} --output-dir {tmp_path / 'out'} --steps 1")


def test_name_that_leads_out_of_the_folder_is_refused_before_a_picture_is_made(tmp_path, capsys):
    tokens = TokenSet(("cat", "dog"), {"clip_l": torch.randn(2, 1, 96) / 9})
    object.__setattr__(tokens, "names", ("../../escaped", "dog"))
    path = save_tokens(tokens, tmp_path / "set")
    for line in (
        f"generate --prompt {{}} --output-dir {tmp_path / 'a' / 'b'} --tokens {path}",
        f"convert {path} --output {tmp_path / 'c'} --format embeddings",
    ):
        assert run(line) == 1
        assert "token name" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.safetensors"]


def test_labels_do_not_forge_lines_nor_reach_the_terminal(folder, tmp_path, capsys):
    evil = "cat\nphotos/dog/0.png\tdog\tdog 100.0%\x1b[2J\x07\u202e"
    path = save_tokens(TokenSet((evil, "dog"), {"clip_l": torch.zeros(2, 1, 96)}), tmp_path / "set")
    assert run(f"classify {folder / 'cat'} --tokens {path} --method clip --top 2") == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 2
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert all(line.count("\t") == 2 for line in shown.splitlines())
