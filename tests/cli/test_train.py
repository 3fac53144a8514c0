import torch

from mcti_core.cli.train import stale_embeddings
from mcti_core.tokens.io import export_embeddings
from mcti_core.tokens.token_set import TokenSet


def test_stale_embeddings_are_ours_of_other_names_only(tmp_path):
    old = TokenSet(("cat", "dog", "猫"), {"clip_l": torch.zeros(3, 1, 8)})
    export_embeddings(old, tmp_path)
    (tmp_path / "theirs.safetensors").write_bytes(b"not ours")
    assert stale_embeddings(tmp_path, ["dog", "new"]) == ["cat", "猫"]
    assert stale_embeddings(tmp_path, old.names) == []
    assert stale_embeddings(tmp_path / "none", []) == []
