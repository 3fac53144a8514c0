"""Stage: write the parts as a diffusers folder in half precision, with figures and a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from ..glyphs import IMAGE_SIZE
from .unet import make_scheduler
from .vision import CLIP_MEAN, CLIP_STD

__all__ = ["publish"]

_MEANINGS = {
    "psnr_db": "autoencoder, PSNR in dB on unseen drawers' glyphs",
    "base_words_clip": "accuracy among 10 random class words on unseen drawers, CLIP (mean of 3 draws of words)",
    "base_words_diffusion": "the same with the diffusion classifier",
    "steps": "steps of each stage (batches of 32, 128, 256, 96, 64); 0 kept the earlier part",
    "seed": "seeds",
    "torch": "torch",
}


def publish(
    folder: Path,
    autoencoder: AutoencoderTiny,
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    figures: dict[str, Any],
) -> None:
    """Write ``folder`` in the layout that diffusers, transformers and this project load, with the whole CLIP model in ``clip/``."""
    text_encoder = CLIPTextModel(clip.config.text_config)
    text_encoder.load_state_dict(clip.text_model.state_dict())
    pipeline = StableDiffusionPipeline(
        vae=autoencoder.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    clip.half().save_pretrained(folder / "clip", safe_serialization=True)
    side = {"shortest_edge": IMAGE_SIZE}
    preprocessing = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD, "size": side, "crop_size": IMAGE_SIZE}
    _write_json(folder / "clip" / "preprocessor_config.json", preprocessing)
    _write_vocabulary(folder / "tokenizer", tokenizer)
    _name_as_usual(folder / "text_encoder" / "model.safetensors")
    _forget(
        folder / "vae" / "config.json", "block_out_channels"
    )  # diffusers writes it, but warns about it when loading
    for part in ("unet", "vae"):
        _forget(folder / part / "config.json", "_name_or_path")  # a path on the machine that trained it
    figures = {**figures, "torch": torch.__version__.split("+")[0]}
    _write_json(folder / "figures.json", figures)
    card = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(card.replace("FIGURES", _figure_table(figures)), encoding="utf-8")


def _figure_table(figures: dict[str, Any]) -> str:
    named = [(name, figures[name]) for name in _MEANINGS if name in figures]
    named = [
        (name, ", ".join(f"{part} {count:,}" for part, count in value.items()) if isinstance(value, dict) else value)
        for name, value in named
    ]
    return "\n".join(
        ["| figure | value |", "|---|---|", *(f"| {_MEANINGS[name]} | {value} |" for name, value in named)]
    )


def _write_vocabulary(folder: Path, tokenizer: CLIPTokenizer) -> None:
    """Write ``vocab.json`` and ``merges.txt`` too, for older versions and other programs."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = "".join(f"{a} {b}\n" for a, b in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")


def _name_as_usual(path: Path) -> None:
    """Prefix the weights' names by ``text_model.``, as in Stable Diffusion folders."""
    weights = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def _forget(path: Path, key: str) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop(key, None)
    _write_json(path, config)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
