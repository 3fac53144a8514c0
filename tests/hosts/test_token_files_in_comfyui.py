"""ComfyUI's own loader and ours see the same vectors in the same files: ours, and those of other programs.

That prompts then say the same is held in ``test_prompts_in_comfyui.py``.
"""

import pytest
import torch
from safetensors.torch import save_file

from mcti_core.tokens.io import LAYOUTS, export_embedding
from mcti_core.tokens.token_set import TokenSet

pytestmark = pytest.mark.host

GENERATOR = torch.Generator().manual_seed(0)
ROWS = {
    name: torch.randn(3, width, generator=GENERATOR)
    for name, width in (("clip_l", 768), ("clip_h", 1024), ("clip_g", 1280))
}
OURS = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("clip_l", "clip_g")}
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
    for name, content in TORCH.items():
        torch.save(content, folder / name)
    for name, content in SAFE.items():
        save_file(content, folder / name)
    (folder / "notes.yaml").write_text("not an embedding")
    return in_comfyui("embeddings_in_comfyui.py", folder)


def test_the_same_vectors(found) -> None:
    differences = found["differences"]
    assert differences == {name: 0.0 for name in differences}
    assert len(differences) == 3 * (1 + 1 + 2) + len(TORCH) + 1 + len(SAFE)


def test_the_node_offers_all_of_them(found) -> None:
    ours = {f"{family}-{layout}.safetensors": f"{family} {layout}" for family in OURS for layout in LAYOUTS}
    theirs = {name: name.rsplit(".", 1)[0] for name in (*TORCH, *SAFE)}
    assert found["choices"] == {f"embedding: {name}": [label] for name, label in (ours | theirs).items()}
