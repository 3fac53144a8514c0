"""ComfyUI's MODEL, CLIP, VAE and a CLIP space as a host. Import it only inside a running ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_base
import torch

from ...errors import HostError
from ..base import Host
from .clip_space import ClipFile, clip_space_for, load_clip_file
from .codec import ComfyCodec
from .denoiser import ComfyDenoiser
from .model_fingerprint import model_fingerprint
from .private_names import check_host, checkpoint_file
from .prompt_tokens import clip_with_tokens
from .session import Residency
from .text import ComfyTextEncoder, text_encoders

__all__ = ["ClipFile", "clip_with_tokens", "comfy_host", "load_clip_file"]

_IMAGE_SIZES = {"SD15": 512, "SD20": 768, "SDXL": 1024, "SD3": 1024}
"""Image size that the models were trained on, by ComfyUI's name of the family."""
_SD3_WIDTH = 2048
"""Width of clip_l and clip_g together; T5 is left out."""


def comfy_host(clip: Any, model: Any = None, vae: Any = None, clip_file: ClipFile | None = None) -> Host:
    """Adapter of ComfyUI's loaded models, which do not change; see ``session.py``.

    Args:
        clip: CLIP, with its LoRA patches and clip-skip.
        model: MODEL, with its patches; for training, the diffusion classifier and generating.
        vae: VAE; needs a MODEL.
        clip_file: vision tower and projections of the CLIP that the text encoder comes from.

    Raises:
        HostError: an unsupported family, or parts of different families.
    """
    check_host()
    device = clip.patcher.load_device if model is None else model.load_device
    encoders = text_encoders(clip, device)
    space = None if clip_file is None else clip_space_for(clip_file, encoders, device)
    denoiser, patchers = None, {"text": clip.patcher}
    if model is not None:
        _refuse_another_family(model, clip, encoders)
        denoiser = ComfyDenoiser(model, tuple(encoders), with_t5=hasattr(clip.cond_stage_model, "t5xxl"))
        patchers["denoiser"] = model
    if clip_file is not None:
        patchers["clip"] = clip_file.vision.patcher
    residency = Residency(patchers)
    codec = None if model is None or vae is None else ComfyCodec(vae, model.model.latent_format, residency)
    family = "the checkpoint" if model is None else type(model.model.model_config).__name__
    used = [model_fingerprint(part) for part in (clip.patcher, model, vae and vae.patcher) if part is not None]
    if clip_file is not None:
        used.append(model_fingerprint(clip_file.vision.patcher, clip_file.vision.dtype))
    return Host(
        text=encoders,  # type: ignore[arg-type]
        denoiser=denoiser,
        codec=codec,
        clip=space,
        device=torch.device(device),
        name=_name(clip, model, family),
        fingerprint=":".join(used),
        image_size=getattr(clip.cond_stage_model, "image_size", _IMAGE_SIZES.get(family, 512)),
        generic_word=getattr(clip.cond_stage_model, "generic_word", "object"),
        session=residency.session,
        moves_weights=True,
    )


def _name(clip: Any, model: Any, family: str) -> str:
    """Family and file of the checkpoint, for messages; the file is known if a stock loader node read it."""
    title = getattr(clip.cond_stage_model, "title", family)
    path = checkpoint_file(clip.patcher if model is None else model)
    return title if path is None else f"{title} ({Path(path).name})"


def _refuse_another_family(model: Any, clip: Any, encoders: dict[str, ComfyTextEncoder]) -> None:
    """Raise if MODEL and CLIP are of different families. Stable Diffusion 3's CLIP may include T5 and is as wide as SDXL's."""
    is_sd3, with_t5 = isinstance(model.model, comfy.model_base.SD3), hasattr(clip.cond_stage_model, "t5xxl")
    takes = _SD3_WIDTH if is_sd3 else model.model.model_config.unet_config.get("context_dim")
    gives = sum(encoder.width for encoder in encoders.values())
    if takes is None:
        raise HostError(
            f"tokens cannot be trained for the MODEL, {type(model.model).__name__}; connect one of Stable Diffusion 1.x, 2.x, "
            "SDXL or 3"
        )
    if takes != gives:
        raise HostError(
            f"the MODEL needs prompts of width {takes}, the CLIP ({' and '.join(encoders)}) gives {gives}; "
            "connect MODEL and CLIP of the same checkpoint"
        )
    if is_sd3 != with_t5:
        one, other = ("MODEL", "CLIP") if is_sd3 else ("CLIP", "MODEL")
        raise HostError(
            f"the {one} is of Stable Diffusion 3, the {other} is not; connect MODEL and CLIP of the same checkpoint"
        )
