"""ComfyUI's loader and ours read the same vectors from the same files: ours, and those of other programs.

That prompts then say the same is held in ``test_prompts_in_comfyui.py``.
"""

import re

import pytest
import torch
from safetensors.torch import save_file

from mcti_core.tokens.encoders import WIDTHS
from mcti_core.tokens.io import LAYOUTS, export_embedding
from mcti_core.tokens.token_set import TokenSet

pytestmark = pytest.mark.host

GENERATOR = torch.Generator().manual_seed(0)
ROWS = {
    name: torch.randn(3, width, generator=GENERATOR)
    for name, width in (
        ("clip_l", 768), ("clip_h", 1024), ("clip_g", 1280), ("t5xxl", 4096), ("llama", 4096), ("qwen3_4b", 2560), ("gemma2_2b", 2304),
    )
}  # fmt: skip
OURS = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("clip_l", "clip_g")}
BEYOND_CLIP = {
    "sd3": ("clip_l", "clip_g", "t5xxl"),
    "flux": ("clip_l", "t5xxl"),
    "chroma": ("t5xxl",),
    "hidream": ("clip_l", "clip_g", "t5xxl", "llama"),
    "z-image": ("qwen3_4b",),
    "lumina": ("gemma2_2b",),
}
"""Layouts of other programs have other keys here, which ComfyUI does not find."""
TORCH = {
    "a1111.pt": {"string_to_token": {"*": 265}, "string_to_param": {"*": ROWS["clip_l"]}, "name": "x", "step": 1},
    "first.pt": {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(ROWS["clip_l"])}),
    },
    "diffusers.bin": {"<cat-toy>": ROWS["clip_h"]},
    "kohya_xl.pt": {"clip_l": ROWS["clip_l"], "clip_g": ROWS["clip_g"]},
    "half.pt": {"emb_params": ROWS["clip_l"].half()},
}
SAFE = {
    "kohya.safetensors": {"emb_params": ROWS["clip_l"].bfloat16()},
    "onetrainer.safetensors": {"emp_params": ROWS["clip_l"]},
    "diffusers.safetensors": {"<cat-toy>": ROWS["clip_l"][0]},
}


@pytest.fixture(scope="module")
def found(in_comfyui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    for family, encoders in OURS.items():
        for layout in LAYOUTS:
            tokens = TokenSet((f"{family} {layout}",), {name: ROWS[name][None] for name in encoders})
            export_embedding(tokens, 0, folder, layout=layout)
    for family, encoders in BEYOND_CLIP.items():
        export_embedding(TokenSet((family,), {name: ROWS[name][None] for name in encoders}), 0, folder)
    for name, content in TORCH.items():
        torch.save(content, folder / name)
    for name, content in SAFE.items():
        save_file(content, folder / name)
    (folder / "notes.yaml").write_text("not an embedding")
    return in_comfyui("embeddings_in_comfyui.py", folder)


def test_the_same_vectors(found) -> None:
    differences = found["differences"]
    assert differences == {name: 0.0 for name in differences}
    assert len(differences) == 3 * (1 + 1 + 2) + sum(map(len, BEYOND_CLIP.values())) + len(TORCH) + 1 + len(SAFE)


def test_the_node_offers_all_of_them(found) -> None:
    ours = {f"{family}-{layout}.safetensors": f"{family} {layout}" for family in OURS for layout in LAYOUTS}
    ours |= {f"{family}.safetensors": family for family in BEYOND_CLIP}
    theirs = {name: name.rsplit(".", 1)[0] for name in (*TORCH, *SAFE)}
    assert found["choices"] == {f"embedding: {name}": [label] for name, label in (ours | theirs).items()}


def test_encoders_of_the_host_are_all_known_with_their_widths(found) -> None:
    assert found["keys"] == sorted(set(found["keys"]) & set(WIDTHS))
    assert {"clip_l", "t5xxl", "gemma2_2b", "qwen25_7b"} <= set(found["keys"])
    assert found["widths"] == {name: width for name, width in found["widths"].items() if width in WIDTHS[name]}


def test_stock_tokenizers_that_look_up_no_files_are_those_in_the_docs(found, comfyui) -> None:
    """docs/models.md lists them; a version that looks them up changes the list."""
    assert {"gemma2_2b", "qwen25_7b", "pile_t5xl", "mt5xl", "qwen25_3b", "umt5xxl"} <= set(found["without files"])
    assert not {"clip_l", "clip_h", "clip_g", "t5xxl", "llama"} & set(found["without files"])
    version = tuple(map(int, re.findall(r"\d+", (comfyui / "comfyui_version.py").read_text("utf-8"))[:2]))
    if "qwen3_4b" in found["keys"]:
        assert ("qwen3_4b" in found["without files"]) == (version < (0, 16))
