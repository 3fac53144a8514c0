import hashlib
import json
import os
from dataclasses import replace
from datetime import datetime

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mcti_core.errors import FileError, TokenError
from mcti_core.files import safe_load
from mcti_core.tokens.earlier_sets import refuse_other_sets
from mcti_core.tokens.io import (
    LAYOUTS,
    export_embedding,
    export_embeddings,
    import_embeddings,
    is_own_file,
    is_token_set,
    load_tokens,
    save_tokens,
)
from mcti_core.tokens.token_set import TokenSet


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
    with open(path, "r+b") as file:  # its numbers; what the file says of itself stays
        begin = 8 + int.from_bytes(file.read(8), "little")
        file.seek(begin)
        file.write(bytes(path.stat().st_size - begin))
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
    with pytest.raises(FileError, match="cannot be written"):
        save_tokens(tokens, path / "below a file")


class TestLoadErrors:
    @pytest.fixture
    def path(self, tokens, tmp_path):
        return save_tokens(tokens, tmp_path / "set")

    def test_missing(self, tmp_path):
        with pytest.raises(TokenError, match=r"nothing\.safetensors: there is no such token file"):
            load_tokens(tmp_path / "nothing.safetensors")

    def test_folder(self, tmp_path):
        with pytest.raises(TokenError, match="is a folder, not a token set"):
            load_tokens(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"hello, this is text" * 9, b"PK\x03\x04" + bytes(99)])
    def test_not_safetensors(self, content, tmp_path):
        (tmp_path / "file.safetensors").write_bytes(content)
        with pytest.raises(TokenError, match=r"file\.safetensors: not a safetensors file"):
            load_tokens(tmp_path / "file.safetensors")

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            (b"", "it is empty"),
            (b"<!DOCTYPE html><html>" + b" " * 99, "a web page, perhaps an error of a download"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "a Git LFS pointer"),
            (b"\x89PNG\r\n\x1a\n" + bytes(99), "an image, PNG"),
        ],
    )
    def test_load_tokens_of_another_download_says_what_it_is(self, content, named, tmp_path):
        (tmp_path / "file.safetensors").write_bytes(content)
        with pytest.raises(TokenError, match=named):
            load_tokens(tmp_path / "file.safetensors")

    @pytest.mark.parametrize("suffix", [".pt", ".BIN", ".png"])
    def test_load_tokens_of_an_embedding_names_convert(self, suffix, tmp_path):
        path = tmp_path / f"cat{suffix}"
        torch.save({"<cat>": torch.ones(1, 768)}, path)
        with pytest.raises(TokenError, match=r"is not a token set; make one from embeddings with: mcti convert"):
            load_tokens(path)

    @pytest.mark.parametrize("kept", [0.2, 0.9, 0.999])
    def test_truncated(self, path, kept):
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(TokenError, match=r"set\.safetensors: truncated"):
            load_tokens(path)

    def test_not_a_token_set(self, tokens, path, tmp_path):
        for other in (export_embedding(tokens, 0, tmp_path), _damaged(path, format="pt"), _damaged(path, format=None)):
            with pytest.raises(TokenError, match="not a token set"):
                load_tokens(other)

    def test_newer(self, path):
        with pytest.raises(TokenError, match="version 2 is newer than 1"):
            load_tokens(_damaged(path, format_version="2"))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"labels": None}, "lacks 'labels'"),
            ({"labels": "[1, 2, 3]"}, "'labels' has the wrong type"),
            ({"labels": '["a", "b"]'}, "one token name per class"),
            ({"labels": '["a", "b"]', "names": '["a", "b"]'}, "2 classes"),
            ({"names": '["a", "a", "b"]'}, "one token name per class"),
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
            ({"support.labels": torch.full((9,), 3)}, "do not match"),
            ({"support.labels": torch.zeros(4, dtype=torch.int64)}, "do not match"),
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
        with pytest.raises(TokenError, match="contains other characters"):
            export_embedding(replace(tokens, names=("../a", "b", "c")), 0, tmp_path / "inside")
        assert os.listdir(tmp_path) == []

    def test_there_is_a_key_for_each_program_that_wants_its_own(self, tokens, two_encoders, tmp_path):
        keys = {layout: set(load_file(export_embedding(tokens, "a", tmp_path, layout=layout))) for layout in LAYOUTS}
        # OneTrainer: modules/modelSetup/BaseStableDiffusionSetup.py asks for "emp_params" and nothing else.
        assert keys == {"comfyui": {"emb_params"}, "diffusers": {"<a>"}, "onetrainer": {"emp_params"}}
        for layout in LAYOUTS:
            assert set(load_file(export_embedding(two_encoders, 0, tmp_path, layout=layout))) == {"clip_l", "clip_g"}
        rows = {"clip_l": torch.ones(1, 1, 768), "t5xxl": torch.ones(1, 1, 4096), "gemma2_2b": torch.ones(1, 1, 2304)}
        for encoders, layout, expected in (
            (("t5xxl",), "comfyui", {"t5xxl"}),
            (("t5xxl",), "onetrainer", {"t5"}),
            (("t5xxl",), "diffusers", {"<a>"}),
            (("gemma2_2b",), "onetrainer", {"gemma"}),
            (("clip_l", "t5xxl"), "comfyui", {"clip_l", "t5xxl"}),
            (("clip_l", "t5xxl"), "onetrainer", {"clip_l", "t5"}),
        ):
            one = TokenSet(("a",), {encoder: rows[encoder] for encoder in encoders})
            path = export_embedding(one, 0, tmp_path / "-".join((*encoders, layout)), layout=layout)
            assert set(load_file(path)) == expected
            refuse_other_sets([path], one)
        with pytest.raises(TokenError, match="layout 'kohya' is not one of comfyui, diffusers, onetrainer"):
            export_embedding(tokens, "a", tmp_path, layout="kohya")


def of_a1111(data):
    """AUTOMATIC1111/stable-diffusion-webui and Forge, ``load_from_file``: SDXL by two keys, else one tensor alone."""
    if "clip_g" in data and "clip_l" in data:
        return [data["clip_l"], data["clip_g"]]
    assert len(data) == 1
    return list(data.values())


def of_invokeai(data):
    """invoke-ai/InvokeAI, ``TextualInversionModelRaw.from_checkpoint`` and ``TI_Config_Base._get_base_or_raise``."""
    if "emb_params" in data:
        assert data["emb_params"].shape[-1] in (768, 1024)
        return [data["emb_params"]]
    assert data["clip_g"].shape[-1] == 1280
    return [data["clip_l"], data["clip_g"]]


def of_kohya(data):
    """kohya-ss/sd-scripts, ``load_weights`` of train_textual_inversion.py and of its SDXL sister."""
    return [data["clip_l"], data["clip_g"]] if "clip_l" in data else [next(iter(data.values()))]


def of_onetrainer(data):
    """Nerogar/OneTrainer, ``_setup_embeddings`` of BaseStableDiffusionSetup.py, and the XL embedding loader."""
    return (
        [data["clip_l"], data["clip_g"]] if "clip_l" in data else [data.get("emp_params_out", data.get("emp_params"))]
    )


@pytest.mark.parametrize("widths", [{"clip_l": 768}, {"clip_h": 1024}, {"clip_l": 768, "clip_g": 1280}])
@pytest.mark.parametrize("reader", [of_a1111, of_invokeai, of_kohya, of_onetrainer])
def test_what_other_programs_look_for_is_there(reader, widths, tmp_path):
    """They cannot run here; this is what their sources did in November 2026, in our words."""
    vectors = {name: torch.randn(1, 2, width) for name, width in widths.items()}
    layout = "onetrainer" if reader is of_onetrainer else "comfyui"
    found = reader(load_file(export_embedding(TokenSet(("a",), vectors), 0, tmp_path, layout=layout)))
    assert [rows.dtype for rows in found] == [torch.float32] * len(widths)
    assert all(torch.equal(rows, v[0]) for rows, v in zip(found, vectors.values(), strict=True))


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


class TestMetadata:
    """By Stability-AI/ModelSpec, README.md, version 1.0.0; ids as kohya's library/sai_model_spec.py builds them."""

    @pytest.mark.parametrize(
        ("widths", "architecture", "resolution"),
        [
            ({"clip_l": 768}, "stable-diffusion-v1/textual-inversion", "512x512"),
            ({"clip_h": 1024}, "stable-diffusion-v2-768-v/textual-inversion", "768x768"),
            ({"clip_l": 768, "clip_g": 1280}, "stable-diffusion-xl-v1-base/textual-inversion", "1024x1024"),
        ],
    )
    def test_what_browsers_of_models_show(self, widths, architecture, resolution, tmp_path):
        tokens = TokenSet(("Mein Hund \udc80",), {name: torch.randn(1, 2, width) for name, width in widths.items()})
        path = export_embedding(tokens, 0, tmp_path)
        values = {key.removeprefix("modelspec."): value for key, value in metadata_of(path).items()}
        content = path.read_bytes()
        numbers = content[8 + int.from_bytes(content[:8], "little") :]
        assert values["sai_model_spec"] == "1.0.0"
        assert (values["architecture"], values["resolution"]) == (architecture, resolution)
        assert (values["title"], values["trigger_phrase"]) == ("Mein Hund ?", "Mein-Hund")
        assert values["implementation"].startswith("https://")
        assert values["hash_sha256"] == f"0x{hashlib.sha256(numbers).hexdigest()}"
        assert datetime.fromisoformat(values["date"]).tzinfo is not None

    def test_models_without_a_name_in_the_convention_get_none(self, tokens, tmp_path):
        assert not [key for key in metadata_of(export_embedding(tokens, 0, tmp_path)) if key.startswith("modelspec")]

    def test_how_it_was_trained(self, tokens, tmp_path):
        settings = {"shots": 5, "gamma": 0.1, "seed": 7, "base_fingerprint": "abc", "lr": 0.3}
        path = export_embedding(replace(tokens, training=settings), "b", tmp_path)
        values = {key: json.loads(value) for key, value in metadata_of(path).items()}
        assert values["training"] == {"shots": 5, "gamma": 0.1, "seed": 7, "base_fingerprint": "abc"}
        assert (values["label"], values["labels"]) == ("b", ["a", "b", "c"])
        assert (values["templates"], values["pooling"]) == (list(tokens.templates), tokens.pooling)

    def test_our_files_are_distinguished(self, tokens, tmp_path):
        whole, single, other = (
            save_tokens(tokens, tmp_path / "set"),
            export_embedding(tokens, 0, tmp_path),
            tmp_path / "x",
        )
        save_file({"emb_params": torch.ones(1, 768)}, other)
        assert [is_own_file(path) for path in (whole, single, other, tmp_path)] == [True, True, False, False]
        assert [is_token_set(path) for path in (whole, single, other, tmp_path)] == [True, False, False, False]


class TestImport:
    @given(st.data())
    def test_embeddings_bring_the_set_back(self, tmp_path_factory, data):
        folder = tmp_path_factory.mktemp("back")
        labels = data.draw(
            st.lists(st.text(max_size=6), min_size=1, max_size=4, unique=True), label="labels"
        )  # of which token names are made that files can have
        widths = data.draw(
            st.sampled_from(
                [
                    {"clip_l": 5},
                    {"clip_l": 768},
                    {"clip_l": 4, "clip_g": 6},
                    {"t5xxl": 7},
                    {"gemma2_2b": 3, "t5xxl": 2, "new": 4},
                ]
            ),
            label="widths",
        )
        count, layout = data.draw(st.integers(1, 3)), data.draw(st.sampled_from(LAYOUTS))
        pooling, templates = (
            data.draw(st.sampled_from(["eot", "token"])),
            tuple(data.draw(st.lists(st.text(), min_size=1))),
        )
        vectors = {name: torch.randn(len(labels), count, width) for name, width in widths.items()}
        before = TokenSet(tuple(labels), vectors, templates=templates, pooling=pooling, training={"seed": 3})
        paths = export_embeddings(before, folder, layout=layout)
        after = import_embeddings(data.draw(st.permutations(paths), label="order"))
        for field in ("labels", "names", "templates", "pooling", "base_model", "training"):
            assert getattr(after, field) == getattr(before, field)
        assert list(after.vectors) == list(vectors)
        assert all(torch.equal(after.vectors[name], v) for name, v in vectors.items())

    def test_a_part_comes_in_the_order_given(self, tokens, tmp_path):
        a, b, c = export_embeddings(tokens, tmp_path)
        assert import_embeddings([c, a]).labels == ("c", "a")
        assert import_embeddings([c, b, a]).labels == ("a", "b", "c")

    def test_files_from_before_more_was_reported(self, tokens, tmp_path):
        path = _damaged(export_embedding(tokens, "b", tmp_path), labels=None, training=None)
        again = import_embeddings([path])
        assert (again.labels, again.pooling, again.training) == (("b",), tokens.pooling, {})

    def test_what_does_not_go_together(self, tokens, two_encoders, tmp_path):
        ours = export_embedding(tokens, 0, tmp_path / "one")
        theirs = export_embedding(two_encoders, 0, tmp_path / "two")
        with pytest.raises(
            TokenError, match=r"'a' has 2 vectors for clip_l, 32 wide, and .* clip_l, 8 wide and clip_g"
        ):
            import_embeddings([ours, theirs])
        with pytest.raises(TokenError, match="two classes are called 'a'"):
            import_embeddings([ours, ours])
        with pytest.raises(TokenError, match="no embedding files"):
            import_embeddings([])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"encoders": None}, "'encoders' are missing"),
            ({"encoders": "[1]"}, "'encoders' have the wrong type"),
            ({"encoders": '["clip_l", "clip_g"]'}, "it contains 'emb_params' instead of 'clip_l', 'clip_g'"),
            (
                {"t5": torch.ones(2, 32), "t5xxl": torch.ones(2, 32), "emb_params": None, "encoders": '["t5xxl"]'},
                " instead of ",
            ),
            ({"encoders": '["__metadata__"]'}, "named by letters"),
            ({"encoders": '["__x"]'}, "named by letters"),
            ({"label": None}, "lacks 'label'"),
            ({"templates": "{}"}, "'templates' has the wrong type"),
            ({"pooling": '"elsewhere"'}, "pooling"),
            ({"training": "[]"}, "'training' has the wrong type"),
            ({"emb_params": torch.full((2, 32), torch.inf)}, "not finite"),
            ({"emb_params": torch.ones(2, 32, dtype=torch.int32)}, "int32"),
        ],
    )
    def test_damaged_ones_of_ours(self, tokens, changes, message, tmp_path):
        with pytest.raises(TokenError, match=message) as caught:
            import_embeddings([_damaged(export_embedding(tokens, 0, tmp_path), **changes)])
        assert "a.safetensors: " in str(caught.value)


def test_token_for_classifying_only_is_no_embedding(tmp_path):
    tokens = TokenSet(("a",), {"clip_twin": torch.zeros(1, 1, 768)})
    with pytest.raises(TokenError, match="none for prompts"):
        export_embedding(tokens, 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_file_that_becomes_shorter_while_it_is_read_is_refused(tmp_path, monkeypatch):
    """PyTorch maps it and compares its size anew."""
    path = save_tokens(TokenSet(("cat",), {"clip_l": torch.ones(1, 1, 768)}), tmp_path / "x.safetensors")

    def shorter(*arguments, **named):
        raise RuntimeError("file size <0> is smaller than the required mapping size")

    monkeypatch.setattr(safe_load, "safe_open", shorter)
    with pytest.raises(TokenError, match="cannot be read"):
        load_tokens(path)
