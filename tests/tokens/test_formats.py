"""Embedding files of other programs, built by hand as those write them.

Read in these sources (repository: file, what it writes or looks for), in November 2026:

- AUTOMATIC1111/stable-diffusion-webui: modules/textual_inversion/textual_inversion.py, ``Embedding.save`` and ``load_from_file``
- invoke-ai/InvokeAI: invokeai/backend/textual_inversion.py, ``from_checkpoint``, and
  invokeai/backend/model_manager/configs/textual_inversion.py
- kohya-ss/sd-scripts: train_textual_inversion.py and sdxl_train_textual_inversion.py, ``save_weights`` and ``load_weights``
- Nerogar/OneTrainer (23df383): modules/modelSaver/*/*EmbeddingSaver.py, one per family, and modules/modelSetup/Base*Setup.py
- huggingface/diffusers (58eb52c): src/diffusers/loaders/textual_inversion.py, examples/textual_inversion, and ``save_embeddings`` of
  examples/advanced_diffusion_training/train_dreambooth_lora_flux_advanced.py
"""

import io
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from mcti_core.errors import TokenError
from mcti_core.files.safe_load import MAX_EMBEDDING_BYTES
from mcti_core.tokens.encoders import WIDTHS
from mcti_core.tokens.formats import read_embedding
from mcti_core.tokens.io import import_embeddings

ROWS = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
BIG = torch.randn(2, 1280, generator=torch.Generator().manual_seed(1))
T5 = torch.randn(2, 4096, generator=torch.Generator().manual_seed(2))
GEMMA = torch.randn(2, 2304, generator=torch.Generator().manual_seed(3))
CLIP_WIDTHS = {name: WIDTHS[name][0] for name in ("clip_l", "clip_h", "clip_g")}


def a1111(tensor, kept=dict, name="style"):
    """What ``Embedding.save`` builds."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": kept({"*": tensor}),
        "name": name,
        "step": 500,
        "sd_checkpoint": "cc6cb27103",
        "sd_checkpoint_name": "v1-5-pruned-emaonly",
    }


LAYOUTS = {
    "ComfyUI and kohya.safetensors": {"emb_params": ROWS},
    "kohya.pt": {"emb_params": ROWS},
    "with a step.safetensors": {"emb_params": ROWS, "step": torch.tensor(500)},
    "A1111.pt": a1111(ROWS),
    "A1111 of a training.pt": a1111(ROWS.clone().requires_grad_()),
    "InvokeAI v1, the first of all.pt": {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(ROWS)}),
    },
    "InvokeAI v2.bin": {"string_to_param": OrderedDict({"*": torch.nn.Parameter(ROWS)}), "name": "x"},
    "diffusers.bin": {"<cat-toy>": ROWS},
    "diffusers.safetensors": {"<cat-toy>": ROWS},
    "diffusers, bare.bin": ROWS,
    "OneTrainer.safetensors": {"emp_params": ROWS},
    "SDXL by one encoder.safetensors": {"clip_l": ROWS},
}
TWO = {
    "kohya and OneTrainer, SDXL.safetensors": {"clip_l": ROWS, "clip_g": BIG},
    "kohya, SDXL.pt": {"clip_l": ROWS, "clip_g": BIG},
    "A1111, SDXL.pt": a1111({"clip_g": BIG, "clip_l": ROWS}),
    "A1111, SDXL as trained.bin": a1111(OrderedDict(clip_l=torch.nn.Parameter(ROWS), clip_g=torch.nn.Parameter(BIG))),
}

BEYOND_CLIP = {
    "OneTrainer, Flux": ({"clip_l": ROWS, "t5": T5}, {"clip_l": ROWS, "t5xxl": T5}),
    "OneTrainer, SD3": ({"clip_l": ROWS, "clip_g": BIG, "t5": T5}, {"clip_l": ROWS, "clip_g": BIG, "t5xxl": T5}),
    "OneTrainer, Chroma and PixArt": ({"t5": T5.bfloat16()}, {"t5xxl": T5.bfloat16().float()}),
    "OneTrainer, HiDream": (
        {"clip_l": ROWS, "clip_g": BIG, "t5": T5, "llama": -T5},
        {"clip_l": ROWS, "clip_g": BIG, "t5xxl": T5, "llama": -T5},
    ),
    "OneTrainer, HunyuanVideo": ({"llama": T5, "clip_l": ROWS}, {"clip_l": ROWS, "llama": T5}),
    "OneTrainer, Sana": ({"gemma": GEMMA}, {"gemma2_2b": GEMMA}),
    "OneTrainer, Wuerstchen": ({"clip_g": BIG}, {"clip_g": BIG}),
    "diffusers, Flux": ({"clip_l": ROWS, "t5": T5}, {"clip_l": ROWS, "t5xxl": T5}),
    "diffusers, Flux, CLIP alone": ({"clip_l": ROWS}, {"clip_l": ROWS}),
    "ComfyUI": ({"qwen3_4b": T5[:, :2560].clone()}, {"qwen3_4b": T5[:, :2560]}),
    "a bare tensor of the only encoder so wide": ({"emb_params": GEMMA}, {"gemma2_2b": GEMMA}),
    "the T5 of Cosmos": ({"t5xxl": T5[:, :1024].clone()}, {"t5xxl": T5[:, :1024]}),
}


def written(path, content):
    if path.suffix == ".safetensors":
        save_file({key: tensor.clone() for key, tensor in content.items()}, path)  # it refuses shared memory
    else:
        torch.save(content, path)
    return path


def packed(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def repacked(content, change=lambda name, data: data, compression=zipfile.ZIP_STORED) -> bytes:
    """A file of ``torch.save`` whose members are changed."""
    new = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed(content))) as old, zipfile.ZipFile(new, "w", compression) as archive:
        for name in old.namelist():
            archive.writestr(name, change(name, old.read(name)))
    return new.getvalue()


class TestLayouts:
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_of_one_encoder(self, name, tmp_path):
        found = read_embedding(written(tmp_path / name, LAYOUTS[name]))
        assert list(found.vectors) == ["clip_l"]
        rows = found.vectors["clip_l"]
        assert torch.equal(rows, ROWS)
        assert (rows.dtype, rows.requires_grad, type(rows)) == (torch.float32, False, torch.Tensor)

    @pytest.mark.parametrize("name", TWO)
    def test_of_two_encoders(self, name, tmp_path):
        found = read_embedding(written(tmp_path / name, TWO[name]))
        assert list(found.vectors) == ["clip_l", "clip_g"]
        assert torch.equal(found.vectors["clip_l"], ROWS)
        assert torch.equal(found.vectors["clip_g"], BIG)

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    @pytest.mark.parametrize("name", BEYOND_CLIP)
    def test_of_other_encoders(self, name, suffix, tmp_path):
        content, expected = BEYOND_CLIP[name]
        found = read_embedding(written(tmp_path / f"x{suffix}", content)).vectors
        assert list(found) == list(expected)
        assert all(torch.equal(found[encoder], rows) for encoder, rows in expected.items())

    @pytest.mark.parametrize(("encoder", "width"), CLIP_WIDTHS.items())
    @pytest.mark.parametrize("content", [lambda rows: {"emb_params": rows}, a1111, lambda rows: {"<x>": rows}])
    def test_the_width_tells_the_encoder(self, encoder, width, content, tmp_path):
        found = read_embedding(written(tmp_path / "x.pt", content(torch.ones(3, width))))
        assert {name: tuple(rows.shape) for name, rows in found.vectors.items()} == {encoder: (3, width)}

    def test_what_the_file_says_of_itself(self, tmp_path):
        found = read_embedding(written(tmp_path / "x.pt", a1111(ROWS, name="my style")))
        assert (found.token, found.base_model) == ("my style", "v1-5-pruned-emaonly")
        assert read_embedding(written(tmp_path / "y.bin", {"<cat-toy>": ROWS})).token == "<cat-toy>"

    def test_the_label_is_the_files_name_but_where_all_are_called_alike(self, tmp_path):
        for name, label in (
            ("my style.pt", "my style"),
            ("learned_embeds.bin", "cat-toy"),
            ("learned_embeds-500.bin", "cat-toy"),
        ):
            tokens = import_embeddings([written(tmp_path / name, {"<cat-toy>": ROWS})])
            assert tokens.labels == (label,)

    @given(
        st.integers(1, 75),
        st.sampled_from(list(CLIP_WIDTHS.values())),
        st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
        st.sampled_from(["emb_params", "emp_params", "<token>", "string_to_param", None]),
        st.booleans(),
        st.integers(0, 2**31),
    )
    def test_any_shape_and_type_comes_back(self, tmp_path_factory, count, width, dtype, key, flat, seed):
        rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).to(dtype)
        rows = rows[0] if flat else rows
        content = rows if key is None else a1111(rows) if key == "string_to_param" else {key: rows}
        suffixes = [".pt"] if key in (None, "string_to_param") else [".pt", ".safetensors"]
        for suffix in suffixes:
            path = written(tmp_path_factory.mktemp("any") / f"x{suffix}", content)
            (found,) = read_embedding(path).vectors.values()
            assert found.dtype == torch.float32
            assert torch.equal(found, rows.float().reshape(-1, width))


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"emb_params": torch.full((1, 768), torch.nan)}, "not finite"),
            ({"emb_params": torch.full((1, 768), 1e300, dtype=torch.float64)}, "not finite"),
            ({"emb_params": torch.ones(1, 768, dtype=torch.int64)}, "int64; embeddings are plain floating"),
            ({"emb_params": torch.ones(1, 768, dtype=torch.bool)}, "bool"),
            ({"emb_params": torch.ones(1, 768, dtype=torch.complex64)}, "complex64"),
            ({"emb_params": torch.ones(0, 768)}, r"\(0, 768\)"),
            ({"emb_params": torch.ones(())}, "shape"),
            ({"emb_params": torch.ones(1, 1, 768)}, r"\(1, 1, 768\)"),
            ({"emb_params": torch.ones(76, 768)}, "76 vectors; a prompt has room for 75"),
            (
                {"emb_params": torch.ones(1, 512)},
                r"512 wide; without the encoder's name, 768 \(clip_l\), 1024 \(clip_h\), 1280",
            ),
            ({"clip_l": torch.ones(1, 1280), "clip_g": torch.ones(1, 1280)}, "'clip_l' vectors are 1280 wide"),
            ({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(2, 1280)}, "different numbers of vectors"),
            ({"clip_l": ROWS, "t6": T5}, r"it contains 'clip_l', 't6'; supported are .* 't5xxl' and 'qwen3_4b'"),
            ({"clip_l": ROWS, "t5": T5, "t5xxl": T5}, "name the same text encoder"),
            ({"t5": ROWS}, r"'t5xxl' vectors are 768 wide; supported are 4096 \(t5xxl\), 1024 \(t5xxl\)"),
            ({"qwen3_4b": T5}, r"'qwen3_4b' vectors are 4096 wide; supported are 2560 \(qwen3_4b\)"),
            ({"<token>": T5}, "4096 wide and it does not name .* t5xxl or .* llama or .*; rename its tensor"),
            ({"clip_l": ROWS, "t5": T5, "t5_out": T5}, "OneTrainer's output embedding"),
            ({"emp_params": ROWS, "emp_params_out": ROWS}, "OneTrainer's output embedding"),
            ({"clip_l_out": ROWS, "clip_g_out": BIG}, "OneTrainer's output embedding"),
            ({"bundle_emb.x.string_to_param.*": ROWS, "lora_unet.alpha": ROWS}, "LoRA with embeddings inside"),
            ({"<a>": ROWS, "<b>": ROWS}, "'<a>', '<b>'; supported are"),
            ({f"weight{i}": ROWS for i in range(99)}, r"\.\.\.; supported are"),
            ({}, "it contains nothing"),
        ],
    )
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_of_content(self, content, message, suffix, tmp_path):
        with pytest.raises(TokenError, match=message):
            read_embedding(written(tmp_path / f"x{suffix}", content))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([ROWS], "it contains a list"),
            ("text", "it contains a str"),
            ({"string_to_param": {}}, "contains 0 tokens"),
            ({"string_to_param": {"a": ROWS, "b": ROWS}}, "contains 2 tokens"),
            ({"string_to_param": ROWS}, "contains no tokens"),
            ({"string_to_param": {"*": [1.0] * 768}}, "is a list and not a tensor"),
            ({"emb_params": torch.zeros(1).expand(10**9, 768)}, "1000000000 vectors"),
            ({"emb_params": torch.ones(1, 768, device="meta")}, "it names torch._utils _rebuild_meta_tensor"),
            ({"emb_params": torch.ones(1, 768).to_sparse()}, "it names torch"),
            ({"epoch": 3}, "it contains 'epoch'; supported"),
            (a1111({}), "contains nothing; supported are clip_l, clip_h"),
            (a1111({"clip_l": ROWS, "t6": ROWS}), "contains 'clip_l', 't6'; supported are clip_l"),
            (a1111({"clip_l": ROWS, "clip_g": BIG[:1]}), "different numbers of vectors"),
            (a1111({"clip_l": BIG, "clip_g": BIG}), "1280 wide"),
            (a1111({"clip_l": [1.0], "clip_g": BIG}), "a list and not a tensor"),
            (a1111({3: ROWS}), "contains a int; supported"),
            (a1111(a1111(ROWS)), "contains 'string_to_token', 'string_to_param'"),
            ({("a",): ROWS, 3: ROWS}, "it contains a tuple, a int; supported"),
        ],
    )
    def test_of_content_that_only_pickles_have(self, content, message, tmp_path):
        with pytest.raises(TokenError, match=message):
            read_embedding(written(tmp_path / "x.pt", content))

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
    def test_missing_empty_and_folders(self, suffix, tmp_path):
        path = tmp_path / f"x{suffix}"
        with pytest.raises(TokenError, match="no such"):
            read_embedding(path)
        path.write_bytes(b"")
        with pytest.raises(TokenError):
            read_embedding(path)
        path.unlink()
        path.mkdir()
        with pytest.raises(TokenError, match="cannot be read"):
            read_embedding(path)

    def test_a_file_is_named(self, tmp_path):
        with pytest.raises(TokenError, match=r"x\.pt: it contains a list"):
            import_embeddings([written(tmp_path / "x.pt", [ROWS])])


class Code:
    """Runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestHostileFiles:
    @pytest.mark.parametrize("where", ["beside", "inside", "alone"])
    def test_code_is_refused_and_does_not_run(self, where, tmp_path):
        ran = tmp_path / "ran"
        content = {
            "beside": {"emb_params": ROWS, "name": Code(ran)},
            "inside": {"string_to_param": {"*": Code(ran)}},
            "alone": Code(ran),
        }[where]
        path = written(tmp_path / "x.pt", content)
        with pytest.raises(TokenError, match="objects other than tensors"):
            read_embedding(path)
        assert not ran.exists()
        torch.load(path, weights_only=False)  # as others would
        assert ran.exists()

    @pytest.mark.parametrize("old", [False, True])
    def test_a_bare_pickle_is_refused_and_does_not_run(self, old, tmp_path):
        path, ran = tmp_path / "x.bin", tmp_path / "ran"
        if old:
            torch.save({"x": Code(ran)}, path, _use_new_zipfile_serialization=False)
        else:
            path.write_bytes(pickle.dumps(Code(ran)))
        with pytest.raises(TokenError, match="pickle or a PyTorch file from before 2020"):
            read_embedding(path)
        assert not ran.exists()

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_large_files_are_refused_unread(self, suffix, tmp_path):
        path = written(tmp_path / f"x{suffix}", {"emb_params": ROWS})
        with open(path, "r+b") as file:
            file.truncate(MAX_EMBEDDING_BYTES + 1)  # takes no room on the disk
        with pytest.raises(TokenError, match="32 MiB, so this is another kind of file"):
            read_embedding(path)

    def test_archives_that_unpack_to_much_are_refused(self, tmp_path):
        path = tmp_path / "x.pt"

        def swollen(name, data):
            return bytes(2 * MAX_EMBEDDING_BYTES) if name.endswith("data/0") else data

        path.write_bytes(repacked({"emb_params": ROWS}, swollen, zipfile.ZIP_DEFLATED))
        assert path.stat().st_size < MAX_EMBEDDING_BYTES / 100
        with pytest.raises(TokenError, match="unpacks to 64 MiB"):
            read_embedding(path)

    def test_archives_that_lie_about_their_sizes_are_refused(self, tmp_path):
        path, content = tmp_path / "x.pt", repacked({"emb_params": ROWS})
        size = ROWS.nbytes.to_bytes(4, "little")
        assert content.count(size * 2) == 2  # packed and unpacked size, beside the data and in the directory
        path.write_bytes(content.replace(size * 2, size + (16).to_bytes(4, "little")))
        with pytest.raises(TokenError):
            read_embedding(path)
        path.write_bytes(repacked({"emb_params": ROWS}, compression=zipfile.ZIP_DEFLATED))
        with pytest.raises(TokenError, match="compressed"):
            read_embedding(path)

    def test_tensors_larger_than_their_data_are_refused(self, tmp_path):
        """A pickle that claims more numbers than the archive holds would show what else is in memory."""
        path = tmp_path / "x.pt"

        def claiming(name, data):
            return data[:64] if name.endswith("data/0") else data

        path.write_bytes(repacked({"emb_params": ROWS}, claiming))
        with pytest.raises(TokenError):
            read_embedding(path)

    @pytest.mark.parametrize(
        "content", [{"emb_params": ROWS[:1]}, a1111(ROWS[:1]), ROWS[0]], ids=["dict", "a1111", "bare"]
    )
    def test_pytorch_files_truncated_anywhere(self, content, tmp_path):
        self.cut_everywhere(packed(content), tmp_path / "x.pt")

    @pytest.mark.parametrize(
        "content", [{"emb_params": ROWS[:1]}, {"clip_l": ROWS[:1], "clip_g": BIG[:1]}], ids=["one", "two"]
    )
    def test_safetensors_truncated_anywhere(self, content, tmp_path):
        self.cut_everywhere(save(content, {"a": "b"}), tmp_path / "x.safetensors")

    def cut_everywhere(self, content, path):
        """At every length near the ends and in all that is not plain numbers; elsewhere at every 64th."""
        path.write_bytes(content)
        read_embedding(path)
        for length in range(len(content)):
            if 1000 < length < len(content) - 1500 and length % 64:
                continue
            path.write_bytes(content[:length])
            with pytest.raises(TokenError):
                read_embedding(path)

    @given(st.integers(0, 10**9), st.integers(0, 255), st.sampled_from([".pt", ".safetensors"]))
    def test_a_wrong_byte_is_refused_or_does_no_harm(self, tmp_path_factory, place, value, suffix):
        """Content is read or refused; nothing else is raised."""
        content = bytearray(packed(a1111(ROWS)) if suffix == ".pt" else save({"emb_params": ROWS}))
        spot = place % len(content)
        spot = spot if spot < 1200 or place % 2 else place % 1200  # mostly not in the numbers
        content[spot] = value
        path = tmp_path_factory.mktemp("wrong") / f"x{suffix}"
        path.write_bytes(content)
        try:
            (rows,) = read_embedding(path).vectors.values()
        except TokenError:
            return
        assert rows.shape[1] in CLIP_WIDTHS.values()
        assert rows.isfinite().all()
