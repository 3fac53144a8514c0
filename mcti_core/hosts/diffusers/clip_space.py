"""A transformers ``CLIPModel`` as the CLIP space of a diffusers model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import HostError
from ..clip_preprocess import CLIP_MEAN, CLIP_STD, clip_preprocess
from .loading import DTYPES, check_no_missing_keys, first_line, refuse_unstored
from .model_folders import check_component, read_settings

__all__ = ["ClipModelSpace", "load_clip_space"]


def load_clip_space(
    folder: str | Path, widths: Mapping[str, int], *, device: str | torch.device = "cpu", dtype: str = "fp32"
) -> ClipModelSpace:
    """Vision tower, visual projection and text projection of a ``CLIPModel`` folder.

    Args:
        widths: widths of the available text encoders, by name; the space belongs to the first one as wide as the model's.

    Raises:
        HostError: the folder is missing, is not a complete ``CLIPModel``, or fits none of the text encoders.
    """
    from transformers import CLIPModel

    if not os.path.isfile(Path(folder) / "config.json"):
        raise HostError(f"no CLIP model at {folder}; give a transformers CLIPModel folder (config.json and weights)")
    check_component(Path(folder))
    try:
        refuse_unstored(CLIPModel, Path(folder))
        model = check_no_missing_keys(
            CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True),
            ("vision_model.", "visual_projection.", "text_projection."),
        )
    except HostError:
        raise
    except Exception as error:
        raise HostError(f"the CLIP model at {folder} cannot be loaded: {first_line(error)}") from error
    width = model.text_projection.in_features
    encoder = next((name for name, own in widths.items() if own == width), None)
    if encoder is None:
        encoders = " and ".join(f"{name} ({own} wide)" for name, own in widths.items())
        raise HostError(
            f"the CLIP model at {folder} is for text encoders {width} wide, this checkpoint has {encoders}; "
            "give the CLIP model that its text encoder comes from"
        )
    size = model.config.vision_config.image_size
    mean, std = _normalisation(Path(folder))
    del model.text_model  # the checkpoint has its own
    model.to(device=device, dtype=DTYPES[dtype]).eval().requires_grad_(False)
    return ClipModelSpace(model, encoder, size, mean, std)


class ClipModelSpace:
    """Vision tower and both projections of a transformers ``CLIPModel`` as the ``ClipSpace`` of one text encoder."""

    def __init__(self, model: Any, encoder: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]):
        self.module, self.dtype = model, model.dtype
        self.encoder, self.size = encoder, size
        self.mean, self.std = mean, std

    def image_features(self, images: Tensor) -> Tensor:
        pixels = clip_preprocess(images, self.size, self.mean, self.std)
        pooled = self.module.vision_model(pixel_values=pixels.to(self.dtype)).pooler_output
        return self.module.visual_projection(pooled).float()

    def project_text(self, pooled: Tensor) -> Tensor:
        return F.linear(pooled.float(), self.module.text_projection.weight.float())


def _normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    path = folder / "preprocessor_config.json"
    settings = read_settings(path) if path.is_file() else {}
    mean, std = (settings.get(name, usual) for name, usual in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)))
    for values in (mean, std):
        is_triple = isinstance(values, (list, tuple)) and len(values) == 3
        if not is_triple or not all(type(value) in (int, float) for value in values):
            raise HostError(f"{path} contains {str(values)[:80]!r} instead of three numbers; copy the folder again")
    return tuple(mean), tuple(std)
