"""A CLIP space from one file: vision tower, visual projection and text projection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.sd
import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import HostError
from ...tokens.encoders import CLIP_FOR_CLASSIFYING
from ..clip_preprocess import clip_preprocess
from .text import ComfyTextEncoder, text_encoders

__all__ = ["ClipFile", "ComfyClipSpace", "clip_for_classifying", "clip_space_for", "load_clip_file"]

_ADVICE = (
    "for Stable Diffusion 1.x and SDXL take model.safetensors of openai/clip-vit-large-patch14, for 2.x of "
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K, and put it into models/clip_vision"
)
_COMPARED_ROWS = 512
_MIN_SIMILARITY = 0.8
"""Minimum mean cosine of rows of the two token tables: 1 for the same table, about 0 for another CLIP's; fine-tuning hardly changes them."""


@dataclass(frozen=True)
class ClipFile:
    """Content of a CLIP file, before it is matched with a checkpoint."""

    vision: Any
    """ComfyUI's ``ClipVisionModel``: tower and visual projection."""
    text_projection: Tensor
    """(p, d) float32."""
    rows: Mapping[int, Tensor]
    """Some token embeddings of its own text tower, by token id; empty without a text tower."""
    name: str
    path: str = ""
    """Path of the file; empty if it was built in memory."""

    @cached_property
    def text_tower(self) -> Any:
        """Its own text tower, as a ``comfy.sd.CLIP``.

        Raises:
            HostError: it contains none.
        """
        if not self.path or not self.rows:
            raise HostError(
                f"{self.name} contains no text tower, which is needed where the model has no CLIP among its text encoders; {_ADVICE}"
            )
        return comfy.sd.load_clip([self.path])


class ComfyClipSpace:
    """A ``ClipFile`` as a ``ClipSpace`` for one text encoder."""

    def __init__(self, file: ClipFile, encoder: str, device: torch.device):
        self.encoder, self._vision, self._device = encoder, file.vision, device
        with torch.inference_mode(False):  # a loader node makes inference tensors, which autograd refuses
            self._projection = file.text_projection.to(device, copy=True)

    def image_features(self, images: Tensor) -> Tensor:
        vision = self._vision
        pixels = clip_preprocess(
            images.to(vision.load_device, torch.float32), vision.image_size, vision.image_mean, vision.image_std
        )
        # called as ClipVisionModel.encode_image does; the third output is the projection
        return vision.model(pixel_values=pixels, intermediate_output=-2)[2].float().to(self._device)

    def project_text(self, pooled: Tensor) -> Tensor:
        return F.linear(pooled.float(), self._projection)


def load_clip_file(path: str | Path) -> ClipFile:
    """Read a complete CLIP model, in transformers' or in OpenCLIP's layout.

    Raises:
        HostError: a part is missing, or ComfyUI has no vision tower of this shape.
    """
    name = Path(path).name
    try:
        weights = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # readers raise any type for an unusable file
        raise HostError(f"{name} cannot be read as a CLIP model ({error}); {_ADVICE}") from error
    openclip = "visual.transformer.resblocks.0.attn.in_proj_weight" in weights
    projection = weights["text_projection"].T if openclip and "text_projection" in weights else None
    projection = weights.get("text_projection.weight", projection)
    tower, visual = ("visual.", "visual.proj") if openclip else ("vision_model.", "visual_projection.weight")
    parts = {
        "vision tower": any(key.startswith(tower) for key in weights),
        "visual projection": visual in weights,
        "text projection": projection is not None,
    }
    missing = [part for part, there in parts.items() if not there]
    if missing or projection is None:
        raise HostError(f"{name} contains no {', no '.join(missing)}; a complete CLIP model is needed: {_ADVICE}")
    rows = _some_rows(weights)
    prefix = tower if openclip else ""
    vision = comfy.clip_vision.load_clipvision_from_sd(weights, prefix=prefix, convert_keys=openclip)
    if vision is None:
        raise HostError(f"the vision tower in {name} has a shape that this ComfyUI does not support; {_ADVICE}")
    return ClipFile(vision, projection.float().clone(), rows, name, str(path))


def clip_space_for(file: ClipFile, encoders: Mapping[str, ComfyTextEncoder], device: torch.device) -> ComfyClipSpace:
    """The CLIP space of the text encoder that the file fits.

    Raises:
        HostError: the file fits no encoder: width or token table differ.
    """
    width = file.text_projection.shape[1]
    name = next((name for name, encoder in encoders.items() if encoder.width == width), None)
    if name is None:
        widths = " and ".join(f"{name} is {encoder.width} wide" for name, encoder in encoders.items())
        raise HostError(f"{file.name} is for a text encoder of width {width}, this CLIP's {widths}; {_ADVICE}")
    similarity = _similarity(file.rows, encoders[name])
    if similarity < _MIN_SIMILARITY:
        raise HostError(
            f"{file.name} belongs to another text encoder than this checkpoint's {name}: the similarity of their words is "
            f"{similarity:.2f}, where 1 is identical; {_ADVICE}"
        )
    return ComfyClipSpace(file, name, device)


def clip_for_classifying(file: ClipFile, device: torch.device) -> tuple[ComfyTextEncoder, ComfyClipSpace]:
    """The file's own text tower, and its CLIP space, for a model without CLIP among its text encoders.

    Raises:
        HostError: the file contains no text tower, or this ComfyUI loads it as another model.
    """
    towers = [each for each in text_encoders(file.text_tower, device).values() if isinstance(each, ComfyTextEncoder)]
    if len(towers) != 1 or towers[0].width != file.text_projection.shape[1]:
        raise HostError(f"ComfyUI loads no fitting text tower from {file.name}; {_ADVICE}")
    return towers[0], ComfyClipSpace(file, CLIP_FOR_CLASSIFYING, device)


def _some_rows(weights: Mapping[str, Tensor]) -> dict[int, Tensor]:
    for key in ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"):
        if key in weights:
            table = weights[key]
            return {i: table[i].float().clone() for i in range(0, len(table), max(1, len(table) // _COMPARED_ROWS))}
    return {}


def _similarity(rows: Mapping[int, Tensor], encoder: ComfyTextEncoder) -> float:
    ids = [i for i in rows if i < encoder.vocabulary_size]
    if not ids:
        return 0.0 if rows else 1.0
    return float(F.cosine_similarity(torch.stack([rows[i] for i in ids]), encoder.embed(torch.tensor(ids))).mean())
