"""``mcti convert`` and ``mcti add``."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcti_core.cli.train_outputs import write_tokens
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.pocket import POCKET_CONFIG, load_pocket
from mcti_core.pocket.digits import digit_dataset, write_class_folders
from mcti_core.tokens.io import export_embeddings, load_tokens, save_tokens
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import train

from .command_line import run


def fails(capsys, line: str) -> str:
    capsys.readouterr()
    assert run(line) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mcti: ")
    return line


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    vectors = {"clip_l": torch.randn(3, 2, 768, generator=generator)}
    return TokenSet(("red cup", "blue cup", "vase"), vectors, pooling="token")


def digits(*labels: str) -> FewShotDataset:
    """Two examples of each."""
    few = digit_dataset().split(2, seed=0)[0]
    chosen = [(few.labels == few.classes.index(label)).nonzero()[:, 0].tolist() for label in labels]
    images = tuple(few.images[index] for part in chosen for index in part)
    return FewShotDataset(labels, images, torch.arange(len(labels)).repeat_interleave(2), min_classes=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A set of two digits."""
    host = load_pocket()
    cache = FeatureCache.build(host, digits("0", "1"), hflip=False)
    tokens = train(host, cache, new_tokens(host, cache.classes), replace(POCKET_CONFIG, steps=2, batch_size=2)).tokens
    return save_tokens(tokens, tmp_path_factory.mktemp("trained") / "two")


class TestConvert:
    def test_there_and_back(self, tokens, tmp_path, capsys):
        whole = save_tokens(tokens, tmp_path / "set.safetensors")
        assert run(f"convert {whole} --format embeddings --output {tmp_path / 'single'}") == 0
        names = ["red-cup.safetensors", "blue-cup.safetensors", "vase.safetensors"]
        assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == names
        assert run(f"convert {tmp_path / 'single'} --format set --output {tmp_path / 'again'}") == 0
        again = load_tokens(tmp_path / "again.safetensors")
        assert (again.labels, again.names, again.pooling) == (tokens.labels, tokens.names, tokens.pooling)
        assert torch.equal(again.vectors["clip_l"], tokens.vectors["clip_l"])

    def test_of_other_programs(self, tokens, tmp_path):
        rows = tokens.vectors["clip_l"]
        torch.save({"string_to_param": {"*": rows[0]}, "name": "x"}, tmp_path / "first.pt")
        torch.save({"<x>": rows[1]}, tmp_path / "second.bin")
        save_file({"emb_params": rows[2].clone()}, tmp_path / "third.safetensors")
        (tmp_path / "readme.txt").write_text("not read")
        assert run(f"convert {tmp_path} --format set --output {tmp_path / 'out' / 'set'}") == 0
        found = load_tokens(tmp_path / "out" / "set.safetensors")
        assert found.labels == ("first", "second", "third")
        assert torch.equal(found.vectors["clip_l"], rows)
        line = f"convert {tmp_path / 'third.safetensors'} {tmp_path / 'first.pt'} --format set"
        assert run(f"{line} --output {tmp_path / 'out' / 'two'} --labels", "猫", "my dog") == 0
        two = load_tokens(tmp_path / "out" / "two.safetensors")
        assert (two.labels, two.names) == (("猫", "my dog"), ("猫", "my-dog"))
        assert torch.equal(two.vectors["clip_l"], rows[[2, 0]])

    def test_merge_pick_and_rename(self, tokens, tmp_path):
        one = save_tokens(tokens, tmp_path / "one")
        other = save_tokens(replace(tokens, labels=("vase", "bowl", "jug"), names=()), tmp_path / "other")
        options = f"--format set --output {tmp_path / 'new'}"
        assert run(f"convert {one} {options} --rename", "vase=old vase", "red-cup=cup") == 0
        renamed = load_tokens(tmp_path / "new.safetensors")
        assert renamed.labels == ("cup", "blue cup", "old vase")
        line = f"convert {tmp_path / 'new.safetensors'} {other} --select jug old-vase {options}"
        assert run(f"{line} --overwrite") == 0
        assert load_tokens(tmp_path / "new.safetensors").labels == ("jug", "old vase")

    def test_a_folder_of_a_training_is_its_set(self, tokens, tmp_path, capsys):
        folder = tmp_path / "learned"
        write_tokens(tokens, folder)
        for name in ("loss.png", "log.csv"):
            (folder / name).write_bytes(b"of the training")
        for name in ("logs", "samples"):
            (folder / name).mkdir()
        assert run(f"convert {folder} --format set --output {tmp_path / 'new'}") == 0
        assert capsys.readouterr().err == ""
        assert load_tokens(tmp_path / "new.safetensors").labels == tokens.labels
        (folder / "mine.png").write_bytes(b"mine")
        assert run(f"convert {folder} --format set --output {tmp_path / 'other'}") == 0
        assert "1 .png not read" in capsys.readouterr().err

    def test_layout(self, tokens, tmp_path):
        whole = save_tokens(tokens, tmp_path / "set")
        assert run(f"convert {whole} --format embeddings --output {tmp_path / 'o'} --layout onetrainer") == 0
        assert set(load_file(tmp_path / "o" / "vase.safetensors")) == {"emp_params"}

    def test_mistakes(self, tokens, tmp_path, capsys):
        one = save_tokens(tokens, tmp_path / "one")
        line = fails(capsys, f"convert {one} --labels a --format set --output {tmp_path / 'new'}")
        assert "3 classes (red cup, blue cup, vase) and 1 labels" in line
        assert not (tmp_path / "new.safetensors").exists()
        torch.save({"<x>": torch.ones(1, 768)}, tmp_path / "vase.safetensors")
        line = fails(capsys, f"convert {one} --format embeddings --output {tmp_path}")
        assert "vase.safetensors already exists and was not written by MC-TI" in line
        assert not (tmp_path / "red-cup.safetensors").exists()
        with pytest.raises(SystemExit):
            run(f"convert {one} --rename vase --format set --output {tmp_path / 'new'}")

    def test_tokens_of_another_model_are_refused_by_name(self, tokens, tmp_path, capsys):
        whole = save_tokens(tokens, tmp_path / "set")
        write_class_folders(digit_dataset().pick(range(20)), tmp_path / "images")
        line = fails(capsys, f"classify {tmp_path / 'images' / '0'} --tokens {whole} --method clip")
        assert "the tokens are for clip_l, 768 wide; this model has clip_l, 96 wide" in line


class TestAdd:
    @pytest.mark.parametrize("others", [(), ("0", "8")], ids=["one new class", "two, and one of the set's own"])
    def test_the_old_ones_stay(self, trained, others, tmp_path, capsys):
        chosen = sorted(("7", *others))
        write_class_folders(digits(*chosen), tmp_path / "images")
        before = load_tokens(trained)
        options = f"--output-dir {tmp_path / 'out'} --steps 2 --batch-size 6"
        assert run(f"add {tmp_path / 'images'} --tokens {trained} {options}") == 0
        assert "added" in capsys.readouterr().out
        after = load_tokens(tmp_path / "out" / "tokens.safetensors")
        assert after.labels == ("0", "1", *(label for label in chosen if label != "0"))
        assert torch.equal(after.vectors["clip_l"][:2], before.vectors["clip_l"])
        assert torch.bincount(after.support.labels).tolist() == [2] * len(after)
        assert len(list((tmp_path / "out" / "embeddings").iterdir())) == len(after)

    def test_nothing_new(self, trained, tmp_path, capsys):
        write_class_folders(digits("0", "1"), tmp_path / "images")
        capsys.readouterr()
        assert run(f"add {tmp_path / 'images'} --tokens {trained} --output-dir {tmp_path / 'out'}") == 1
        assert "the set already has 0, 1; give images of a class that it does not have" in capsys.readouterr().err


def test_a_folder_of_our_own_embeddings_is_a_set_with_support_lost(tokens, tmp_path):
    export_embeddings(tokens, tmp_path / "single")
    assert run(f"convert {tmp_path / 'single'} --format set --output {tmp_path / 'set'}") == 0
    assert load_tokens(tmp_path / "set.safetensors").support is None
