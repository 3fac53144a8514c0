"""Save and load token files beside other sets' files, damaged files, and files in the wrong folder.

Usage: python loading_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER

With the pocket checkpoint. Prints a line of JSON.
"""

import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from in_comfyui import generator, load_nodes, logged, start, tell
from PIL import Image


def main(comfyui: str, folder: Path) -> None:
    start(comfyui)
    pack, named = load_nodes(folder)
    token_set = import_module(f"{pack}.mcti_core.tokens.token_set").TokenSet
    clip = named["Pocket"].execute(shots=1, seed=0).args[1]
    models = folder / "models"

    def tokens(*labels: str, seed: int = 0, width: int = 96, **more: Any) -> Any:
        vectors = torch.randn(len(labels), 1, width, generator=generator(seed))
        return token_set(labels, {"clip_l": vectors}, **more)

    def save(of: Any, name: str = "mine", form: str = "both", into: str = "mine") -> list[str]:
        return said(lambda: named["SaveTokens"].execute(tokens=of, name=name, format=form, folder=into).args)

    def load(choice: str) -> tuple[list[str], list[str]]:
        result, messages = logged(lambda: said(lambda: named["LoadTokens"].execute(file=choice, clip=clip).args[2:]))
        return result, messages

    found: dict[str, Any] = {"saved": [save(tokens("cat", "dog")), save(tokens("cat", "dog", seed=1))]}
    found["other"] = [
        save(tokens("cat", "bird")),
        save(tokens("cat", "bird"), name="new", into="mine"),
        save(tokens("cat", "dog", width=768), form="token set"),
        save(tokens("cat", "bird"), name="new", into="new"),
    ]
    found["replaced"] = load("mine.safetensors")[0]
    found["beside"] = save(tokens("owl", templates=("a {}",)), name="owl")
    found["misfit"] = load("embeddings in: mine")
    found["suffix"] = save(tokens("cat", "dog"), name="x.safetensors", form="token set")

    embeddings, sets = models / "embeddings", models / "mcti_tokens"
    save(tokens("cat", "dog"), form="embeddings", into="bad")
    whole = (embeddings / "bad" / "cat.safetensors").read_bytes()
    for name, content in {"cut.safetensors": whole[:-9], "none.pt": b"", "text.bin": b"hello"}.items():
        (embeddings / "bad" / name).write_bytes(content)
    shutil.copy(sets / "mine.safetensors", embeddings / "bad" / "whole.safetensors")
    shutil.copy(embeddings / "mine" / "cat.safetensors", sets / "single.safetensors")
    found["bad"] = load("embeddings in: bad")
    for path in (embeddings / "bad").glob("[cd][ao][tg].safetensors"):
        path.unlink()
    found["all bad"] = load("embeddings in: bad")
    found["misplaced"] = [load("embedding: bad/whole.safetensors")[0], load("single.safetensors")[0]]
    save(tokens("wide", width=768, base_model="SD15 (x.ckpt)"), name="wide", form="token set")
    found["wide"] = load("wide.safetensors")[0]
    found["cards"] = cards(embeddings, named["LoadTokens"], load)
    tell(found)


def cards(embeddings: Path, loader: Any, load: Any) -> dict[str, Any]:
    """Images among the choices: with an embedding, without, and a preview of an embedding."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tokens"))
    from test_embedding_cards import ROWS, content, with_pixels, with_text

    (embeddings / "cards").mkdir()
    with_text(embeddings / "cards" / "glass.png", content(ROWS))
    with_pixels(embeddings / "cards" / "cup.webp", content(ROWS))
    Image.new("RGB", (64, 64), "red").save(embeddings / "cards" / "photo.png")
    with_text(embeddings / "mine" / "cat.preview.png", content(ROWS))
    choices = next(each.options for each in loader.define_schema().inputs if each.id == "file")
    images = [name for name in choices if name.endswith((".png", ".webp"))]
    return {
        "images": images,
        "folder": "embeddings in: cards" in choices,
        "read": load("embedding: cards/glass.png")[0],
    }


def said(act: Any) -> list[str]:
    try:
        return list(act())
    except ValueError as error:
        return [f"error: {error}"]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
