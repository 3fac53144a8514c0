import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mcti_core.errors import TokenError
from mcti_core.token_files import export_embedding, export_embeddings, load_tokens, save_tokens
from mcti_core.tokens import TokenSet


@pytest.fixture
def two_encoders():
    """A set as for SDXL, with labels that are hard to write down."""
    generator = torch.Generator().manual_seed(0)
    return TokenSet(
        labels=("猫 \U0001f431", 'say "no"\n', "a/b", "\udc80"),
        vectors={
            "clip_l": torch.randn(4, 1, 8, generator=generator),
            "clip_g": torch.randn(4, 1, 12, generator=generator),
        },
        pooling="token",
    )


def _damaged(path, **changes):
    """The token file with tensors (by ``tensor=``) or metadata replaced; None takes one away."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for key, value in changes.items():
        target = tensors if isinstance(value, torch.Tensor) or key in tensors else metadata
        target.pop(key, None)
        if value is not None:
            target[key] = value
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.mark.parametrize("name", ["tokens", "two_encoders"])
def test_save_then_load_is_the_identity(name, request, tmp_path):
    before = request.getfixturevalue(name)
    after = load_tokens(save_tokens(before, tmp_path / "set.safetensors"))
    for field in ("labels", "names", "templates", "pooling", "base_model", "training"):
        assert getattr(after, field) == getattr(before, field)
    assert list(after.vectors) == list(before.vectors)
    for encoder, vectors in before.vectors.items():
        assert torch.equal(after.vectors[encoder], vectors)
        assert after.vectors[encoder].dtype == torch.float32
    if before.support is None:
        assert after.support is None
    else:
        assert torch.equal(after.support.features, before.support.features)
        assert torch.equal(after.support.labels, before.support.labels)


def test_saving_what_was_loaded_changes_nothing(tokens, tmp_path):
    first = save_tokens(tokens, tmp_path / "first")
    second = save_tokens(load_tokens(first), tmp_path / "second")
    assert first.name == "first.safetensors"
    a, b = load_file(first), load_file(second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_what_was_loaded_does_not_hang_on_the_file(tokens, tmp_path):
    path = save_tokens(tokens, tmp_path / "set")
    loaded = load_tokens(path)
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(loaded.vectors["clip_l"], tokens.vectors["clip_l"])
    save_tokens(tokens, path)
    assert torch.equal(load_tokens(path).vectors["clip_l"], tokens.vectors["clip_l"])


def test_metadata_is_json_in_label_order(two_encoders, tmp_path):
    with safe_open(save_tokens(two_encoders, tmp_path / "set"), framework="pt") as file:
        values = {key: json.loads(value) for key, value in file.metadata().items()}
    assert (values["format"], values["format_version"]) == ("mcti-token-set", 1)
    assert values["labels"] == list(two_encoders.labels)
    assert values["encoders"] == ["clip_l", "clip_g"]
    assert "torch" in values["versions"]


def test_vectors_that_share_memory_or_want_gradients_are_saved(tmp_path):
    shared = torch.randn(2, 1, 8, requires_grad=True)
    before = TokenSet(("a", "b"), {"clip_l": shared, "clip_g": shared})
    after = load_tokens(save_tokens(before, tmp_path / "set"))
    assert torch.equal(after.vectors["clip_g"], shared)


def test_a_failed_save_leaves_the_old_file(tokens, tmp_path):
    path = save_tokens(tokens, tmp_path / "set")
    content = path.read_bytes()
    with pytest.raises(TokenError, match="plain values"):
        save_tokens(replace(tokens, training={"x": object()}), path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(TokenError, match="cannot be written"):
        save_tokens(tokens, path / "below a file")


class TestLoadErrors:
    @pytest.fixture
    def path(self, tokens, tmp_path):
        return save_tokens(tokens, tmp_path / "set")

    def test_missing(self, tmp_path):
        with pytest.raises(TokenError, match=r"nothing\.safetensors: there is no such token file"):
            load_tokens(tmp_path / "nothing.safetensors")

    def test_folder(self, tmp_path):
        with pytest.raises(TokenError, match="cannot be read"):
            load_tokens(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"hello, this is text" * 9, b"PK\x03\x04" + bytes(99)])
    def test_not_safetensors(self, content, tmp_path):
        (tmp_path / "file.pt").write_bytes(content)
        with pytest.raises(TokenError, match=r"file\.pt: not a safetensors file"):
            load_tokens(tmp_path / "file.pt")

    @pytest.mark.parametrize("kept", [0.2, 0.9, 0.999])
    def test_truncated(self, path, kept):
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(TokenError, match=r"set\.safetensors: cut short"):
            load_tokens(path)

    def test_not_a_token_set(self, tokens, path, tmp_path):
        for other in (export_embedding(tokens, 0, tmp_path), _damaged(path, format="pt"), _damaged(path, format=None)):
            with pytest.raises(TokenError, match="no token set"):
                load_tokens(other)

    def test_newer(self, path):
        with pytest.raises(TokenError, match="version 2 is newer than 1"):
            load_tokens(_damaged(path, format_version="2"))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"labels": None}, "lacks 'labels'"),
            ({"labels": "[1, 2, 3]"}, "'labels' is of the wrong kind"),
            ({"labels": '["a", "b"]'}, "one a class"),
            ({"labels": '["a", "b"]', "names": '["a", "b"]'}, "2 classes"),
            ({"names": '["a", "a", "b"]'}, "one a class"),
            ({"templates": "[]"}, "no templates"),
            ({"pooling": '"elsewhere"'}, "pooling"),
            ({"training": "not json"}, "lacks 'training'"),
            ({"clip_l": None}, "no tensor 'clip_l'"),
            ({"clip_l": torch.zeros(3, 32)}, "3 dimensions"),
            ({"clip_l": torch.zeros(3, 0, 32)}, "not empty"),
            ({"clip_l": torch.zeros(2, 2, 32)}, "3 classes"),
            ({"clip_l": torch.zeros(3, 2, 32, dtype=torch.float16)}, "float32"),
            ({"clip_l": torch.full((3, 2, 32), torch.nan)}, "finite"),
            ({"support.labels": None}, r"no tensor 'support\.labels'"),
            ({"support.labels": torch.full((9,), 3)}, "do not fit"),
            ({"support.labels": torch.zeros(4, dtype=torch.int64)}, "do not fit"),
            ({"support.features": torch.zeros(9)}, "2 dimensions"),
        ],
    )
    def test_wrong_content(self, path, changes, message):
        with pytest.raises(TokenError, match=message) as caught:
            load_tokens(_damaged(path, **changes))
        assert str(path) in str(caught.value)


class TestExport:
    def test_one_encoder(self, tokens, tmp_path):
        paths = export_embeddings(tokens, tmp_path / "embeddings")
        assert [path.name for path in paths] == [f"{name}.safetensors" for name in tokens.names]
        for path, vectors in zip(paths, tokens.vectors["clip_l"], strict=True):
            (key,) = load_file(path)
            assert key == "emb_params"
            assert torch.equal(load_file(path)[key], vectors)

    def test_several_encoders(self, two_encoders, tmp_path):
        stored = load_file(export_embedding(two_encoders, "a/b", tmp_path))
        assert set(stored) == {"clip_l", "clip_g"}
        assert all(torch.equal(stored[key], v[2]) for key, v in two_encoders.vectors.items())

    def test_by_label_name_or_index(self, two_encoders, tmp_path):
        paths = {export_embedding(two_encoders, which, tmp_path) for which in ("a/b", "a-b", "A-B", 2)}
        assert paths == {tmp_path / "a-b.safetensors"}

    @pytest.mark.parametrize("which", ["d", 3, -1])
    def test_unknown_class(self, tokens, which, tmp_path):
        with pytest.raises(TokenError, match="there are: a, b, c"):
            export_embedding(tokens, which, tmp_path)

    def test_a_name_cannot_lead_out_of_the_folder(self, tokens, tmp_path):
        with pytest.raises(TokenError, match="cannot be a file's name"):
            export_embedding(replace(tokens, names=("../a", "b", "c")), 0, tmp_path / "inside")
        assert os.listdir(tmp_path) == []
