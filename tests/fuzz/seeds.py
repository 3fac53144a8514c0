"""Valid files of every supported kind, from which damaged ones are made."""

from __future__ import annotations

import io
import json
import os
import pickle
import tempfile
from collections import OrderedDict
from pathlib import Path

import torch
from PIL import Image, features
from safetensors.torch import save
from torch import Tensor

from mcti_core.tokens.io import export_embedding, save_tokens
from mcti_core.tokens.token_set import Support, TokenSet
from mcti_core.training.checkpoint import save_checkpoint
from mcti_core.training.state import TrainState

MARKER = "ran"
"""What a hostile pickle makes in the working folder, if it runs."""


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (MARKER,)


def rows(width: int = 768, count: int = 2) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(width))


def token_set() -> TokenSet:
    support = Support(torch.nn.functional.normalize(rows(16, 4), dim=-1), torch.tensor([0, 1, 2, 1]))
    vectors = {"clip_l": rows(768, 6).reshape(3, 2, 768), "clip_g": rows(1280, 6).reshape(3, 2, 1280)}
    return TokenSet(("my cat", "猫", "!"), vectors, base_model="tiny", training={"lr": 0.1, "seed": 3}, support=support)


def training() -> TrainState:
    vectors = {"clip_l": rows(16, 3).reshape(3, 1, 16)}
    moments = {0: {"exp_avg": rows(16, 3), "exp_avg_sq": rows(16, 3) ** 2, "step": torch.tensor(2.0)}}
    return TrainState(
        identity={"examples": "abc", "settings": "lr 0.1"}, history=({"loss": 1.0, "ldm": 0.5}, {"loss": 0.9, "ldm": 0.4}),
        vectors=vectors, moments=moments, generators=(torch.Generator().get_state(),), batches={"queue": [1, 0, 2]},
        best=(0.5, 1),
    )  # fmt: skip


def safetensors_files() -> list[bytes]:
    """Embeddings of every layout, our own, token sets, a training."""
    two = {"clip_l": rows(), "clip_g": rows(1280)}
    plain = [
        {"emb_params": rows()},
        {"<cat-toy>": rows()},
        {"emp_params": rows()},
        {"emb_params": rows(1024)},
        two,
        {"clip_l": rows(), "t5": rows(4096)},
    ]
    files = [save(content) for content in plain] + [save({"emb_params": rows().half()}, {"a": "b"})]
    tokens = token_set()
    bare = TokenSet(("a", "b"), {"clip_l": rows(32, 2)[:, None]})
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        written = [export_embedding(tokens, 0, place / "two"), export_embedding(bare, 1, place / "one")]
        written += [save_tokens(tokens, place / "whole"), save_tokens(bare, place / "bare")]
        written += [save_checkpoint(training(), place / "training.safetensors")]
        return [_in_order(content) for content in (*files, *(path.read_bytes() for path in written))]


def _in_order(content: bytes) -> bytes:
    """safetensors writes metadata in any order, and embeddings have a date: the same seed shall make the same file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if "modelspec.date" in header.get("__metadata__", {}):
        header["__metadata__"]["modelspec.date"] = "2026-01-01"
    text = json.dumps(header, sort_keys=True).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def torch_files() -> list[bytes]:
    """What ``torch.save`` writes: embeddings, other things, and code."""
    a1111 = {"string_to_token": {"*": 265}, "string_to_param": {"*": rows()}, "name": "style", "step": 500}
    first = {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(rows())}),
    }
    contents = [
        a1111, first, {"<cat-toy>": rows()}, {"clip_l": rows(), "clip_g": rows(1280)}, rows(), {"emb_params": rows().double()},
        {"string_to_param": OrderedDict({"*": torch.nn.Parameter(rows().bfloat16())}), "name": "x"},
        [rows()], {"emb_params": rows().to_sparse()}, {"emb_params": torch.zeros(1).expand(10**9, 768)},
        {"emb_params": torch.ones(1, 768, device="meta")}, {("a",): rows(), 3: {"deep": [(1, (2, (3,)))]}},
        {"emb_params": rows(), "name": Code()}, {"string_to_param": {"*": Code()}}, Code(), bytearray(9), {1, 2},
    ]  # fmt: skip
    files = []
    for content in contents:
        file = io.BytesIO()
        torch.save(content, file)
        files.append(file.getvalue())
    old = io.BytesIO()
    torch.save({"emb_params": rows(), "name": Code()}, old, _use_new_zipfile_serialization=False)
    return [*files, old.getvalue(), pickle.dumps(Code()), pickle.dumps({"emb_params": [1.0] * 768}, 2)]


def exif_blocks() -> list[bytes]:
    """What a camera writes into its files, in both orders of bytes."""
    blocks = []
    for order in "<>":
        exif = Image.Exif()
        exif.endian = order
        exif[0x0112], exif[0x010E], exif[0x011A], exif[0x0110] = 6, "description", 72.0, "camera" * 4
        exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2026:01:01 00:00:00", 0x927C: b"maker"})
        exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
        blocks.append(exif.tobytes())
    return blocks


def image_files() -> list[bytes]:
    """Small ones of the kinds that are read, in all modes that each can hold."""
    colours = torch.randint(0, 256, (24, 20, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    image = Image.fromarray(colours)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "description"
    palette = image.convert("RGB").quantize(16)
    wide = Image.fromarray(colours[..., 0].astype("uint16") * 257)
    frames = [image.rotate(90 * i).convert("RGB") for i in range(3)]
    kinds = [
        *(("PNG", image.convert(mode), {}) for mode in ("RGB", "RGBA", "L", "LA", "1")),
        ("PNG", palette, {"transparency": 3}), ("PNG", wide, {}), ("PNG", image, {"exif": exif}),
        ("PNG", frames[0], {"save_all": True, "append_images": frames}), ("PNG", image.convert("L"), {"transparency": 7}),
        *(("JPEG", image.convert(mode), {"exif": exif}) for mode in ("RGB", "L", "CMYK")),
        ("JPEG", frames[0], {"progressive": True, "icc_profile": bytes(200)}),
        ("WEBP", image, {"exif": exif}), ("WEBP", frames[0], {"lossless": True}),
        ("WEBP", frames[0], {"save_all": True, "append_images": frames}),
        *(("BMP", image.convert(mode), {}) for mode in ("RGB", "L", "1")), ("BMP", palette, {}),
        ("GIF", palette, {}), ("GIF", frames[0], {"save_all": True, "append_images": frames}),
        ("TIFF", image, {}), ("TIFF", wide, {}), ("TIFF", image.convert("CMYK"), {}), ("TIFF", image.convert("F"), {}),
        ("ICO", image, {}), ("PPM", frames[0], {}), ("PDF", frames[0], {}), ("EPS", frames[0], {}),
    ]  # fmt: skip
    kinds += [("AVIF", image, {"exif": exif}), ("AVIF", frames[0], {"speed": 10})] if features.check("avif") else []
    files = []
    for kind, picture, options in kinds:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        files.append(file.getvalue())
    return files
