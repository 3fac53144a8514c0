"""Stage: put the parts together as a diffusers folder in half precision, with figures and a model card."""

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


def publish(
    folder: Path,
    autoencoder: AutoencoderTiny,
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    figures: dict[str, Any],
) -> None:
    """Write ``folder`` so that diffusers, transformers and this project load it; ``clip/`` holds the whole CLIP model."""
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
    config = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    config.pop("block_out_channels", None)  # diffusers writes it and then warns of it
    _write_json(folder / "vae" / "config.json", config)
    _write_json(folder / "figures.json", {**figures, "torch": torch.__version__.split("+")[0]})


def _write_vocabulary(folder: Path, tokenizer: CLIPTokenizer) -> None:
    """``vocab.json`` and ``merges.txt`` too, which older versions and other programs read."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = "".join(f"{a} {b}\n" for a, b in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")


def _name_as_usual(path: Path) -> None:
    """Weights under ``text_model.``, as in every Stable Diffusion folder."""
    weights = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
