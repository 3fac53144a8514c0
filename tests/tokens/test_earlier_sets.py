from dataclasses import replace

import pytest
import torch

from mcti_core.errors import FileError
from mcti_core.tokens.earlier_sets import refuse_other_sets, stale_embeddings
from mcti_core.tokens.io import export_embeddings, save_tokens
from mcti_core.tokens.token_set import TokenSet


def tokens(*labels, width=8, encoder="clip_l", vectors=1):
    return TokenSet(labels, {encoder: torch.zeros(len(labels), vectors, width)})


def written(of, folder):
    return [save_tokens(of, folder / "set"), *export_embeddings(of, folder)]


@pytest.mark.parametrize(
    "again",
    [
        tokens("cat", "dog"), tokens("dog", "Cat"), tokens("cat", "dog", vectors=3), tokens("cat", "dog", "bird"),
        replace(tokens("cat", "dog"), templates=("a {}",), training={"seed": 1}),
    ],
)  # fmt: skip
def test_refuse_other_sets_lets_the_same_set_be_trained_and_saved_again(tmp_path, again):
    refuse_other_sets([*written(tokens("cat", "dog"), tmp_path), tmp_path / "none"], again)


@pytest.mark.parametrize(
    "other",
    [
        tokens("cat", "bird"),
        tokens("cat", "dog", "bird"),
        tokens("cat", "dog", width=12),
        tokens("cat", "dog", encoder="clip_h"),
        TokenSet(("cat", "dog"), {name: torch.zeros(2, 1, 8) for name in ("clip_l", "clip_g")}),
    ],
)
def test_refuse_other_sets_keeps_each_file_of_another_set(tmp_path, other):
    for path in written(other, tmp_path):
        with pytest.raises(
            FileError, match=rf"{path.name} belongs to another token set \(cat.*(8|12) wide.*choose another"
        ):
            refuse_other_sets([path], tokens("cat", "dog"))


@pytest.mark.parametrize("content", [b"", b"theirs", b"\xff" * 100])
def test_refuse_other_sets_leaves_files_that_are_no_token_files_to_other_checks(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    refuse_other_sets([tmp_path / "x.safetensors", tmp_path], tokens("cat", "dog"))


def test_stale_embeddings_are_ours_of_other_names_only(tmp_path):
    old = TokenSet(("cat", "dog", "猫"), {"clip_l": torch.zeros(3, 1, 8)})
    export_embeddings(old, tmp_path)
    (tmp_path / "theirs.safetensors").write_bytes(b"not ours")
    assert stale_embeddings(tmp_path, ["dog", "new"]) == ["cat", "猫"]
    assert stale_embeddings(tmp_path, old.names) == []
    assert stale_embeddings(tmp_path / "none", []) == []
