"""ComfyUI's MODEL, CLIP, VAE and a CLIP space as a host. Import it only inside a running ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...errors import HostError
from ...tokens.encoders import CLIP_FOR_CLASSIFYING
from ..base import ClipSpace, Host
from .clip_space import ClipFile, clip_for_classifying, clip_space_for
from .codec import ComfyCodec
from .denoiser import ComfyDenoiser
from .model_fingerprint import model_fingerprint
from .private_names import check_host, checkpoint_file
from .prompt_encoder import ComfyPromptEncoder
from .session import Residency
from .text import ComfyTextEncoder, ComfyTokenTable, has_only_clip_towers, text_encoders

__all__ = ["comfy_host"]

_IMAGE_SIZES = {"SD15": 512, "SD20": 768}
"""Default image size by ComfyUI's name of the family. It calls 2.x-base, which was trained at 512 px, SD20 as well."""


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
    towers = {name: encoder for name, encoder in encoders.items() if isinstance(encoder, ComfyTextEncoder)}
    space: ClipSpace | None = None if clip_file is None or not towers else clip_space_for(clip_file, towers, device)
    widths = {name: encoder.width for name, encoder in encoders.items()}
    denoiser, patchers = None, {"text": clip.patcher}
    if model is not None:
        _check_family(model, clip, encoders)
        denoiser = ComfyDenoiser(model)
        patchers["denoiser"] = model
    fingerprints = [model_fingerprint(part) for part in (clip.patcher, model, vae and vae.patcher) if part is not None]
    if clip_file is not None:
        patchers["clip"] = clip_file.vision.patcher
        fingerprints.append(model_fingerprint(clip_file.vision.patcher, clip_file.vision.dtype))
        if not towers:
            encoders[CLIP_FOR_CLASSIFYING], space = clip_for_classifying(clip_file, device)
            patchers[CLIP_FOR_CLASSIFYING] = clip_file.text_tower.patcher
            fingerprints.append(model_fingerprint(patchers[CLIP_FOR_CLASSIFYING]))
    residency = Residency(patchers)
    codec = None if model is None or vae is None else ComfyCodec(vae, model.model.latent_format, residency)
    family = "the checkpoint" if model is None else type(model.model.model_config).__name__
    family_size = 512 if model is None else _IMAGE_SIZES.get(family, 1024)
    title = getattr(clip.cond_stage_model, "title", family)
    path = checkpoint_file(clip.patcher if model is None else model)
    return Host(
        text=encoders,  # type: ignore[arg-type] # with prompts, token tables suffice (see Host.text)
        prompts=None if has_only_clip_towers(clip) else ComfyPromptEncoder(clip, widths, device),
        denoiser=denoiser,
        codec=codec,
        clip=space,
        device=torch.device(device),
        name=title if path is None else f"{title} ({Path(path).name})",
        fingerprint=":".join(fingerprints),
        image_size=getattr(clip.cond_stage_model, "image_size", family_size),
        generic_word=getattr(clip.cond_stage_model, "generic_word", "object"),
        session=residency.session,
        moves_weights=True,
        logit_normal=denoiser is not None and denoiser.is_flow,
    )


def _check_family(model: Any, clip: Any, encoders: dict[str, ComfyTokenTable]) -> None:
    """Raise if MODEL and CLIP are of different families."""
    config, kind, names = model.model.model_config, type(model.model).__name__, " and ".join(encoders)
    expected, width = config.unet_config.get("context_dim"), sum(encoder.width for encoder in encoders.values())
    if has_only_clip_towers(clip) and expected is not None:
        if expected != width:
            raise HostError(
                f"the CLIP ({names}) makes text features {width} wide, the MODEL needs them {expected} wide; connect MODEL and CLIP "
                "of the same checkpoint"
            )
        return
    try:
        tokenizer = config.clip_target().tokenizer
    except Exception as error:  # clip_target may be missing or raise any type
        raise HostError(
            f"tokens cannot be trained for the MODEL, {kind}: ComfyUI names no text encoder for it"
        ) from error
    if not isinstance(clip.tokenizer, tokenizer):
        raise HostError(
            f"the CLIP connected here ({names}) is of another model family than the MODEL, {kind}; connect the CLIP of the same "
            "checkpoint, or choose this family as the type in Load CLIP"
        )
