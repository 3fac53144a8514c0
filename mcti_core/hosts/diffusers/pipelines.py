"""Use a loaded diffusers pipeline as a host, and add trained tokens to a pipeline."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from ...errors import HostError, TokenError
from ...tokens.encoders import describe_encoders
from ...tokens.token_set import TokenSet
from ..base import Host
from .host import host_of_parts
from .loading import DTYPES, Parts, by_name, refuse_others

__all__ = ["add_to_pipeline", "host_from_pipeline"]


def host_from_pipeline(pipe: Any, clip: str | Path | None = None) -> Host:
    """A host that shares the weights of a pipeline of Stable Diffusion 1.x, 2.x or XL. The pipeline is not changed.

    fp16 text encoders, and an SDXL autoencoder that overflows in fp16, are copied as float32.

    Args:
        pipe: a diffusers pipeline with all weights on one device, without offloading.
        clip: as for ``load_host``.

    Raises:
        HostError: the pipeline is of another family, lacks a part, or offloads its weights; or ``clip`` is invalid.
    """
    parts = _parts_of(pipe)
    weights = [weight for module in parts.modules for weight in module.parameters()]
    if any(hasattr(module, "_hf_hook") for part in parts.modules for module in part.modules()):
        raise HostError("the pipeline offloads its weights; load it without offloading, and call pipe.to(device)")
    if len({weight.device for weight in weights}) != 1:
        raise HostError("the pipeline's weights are on several devices; move all of it with pipe.to(device)")
    dtype = next((name for name, kind in DTYPES.items() if kind == parts.unet.dtype), None)
    if dtype is None:
        raise HostError(f"the pipeline's number format is {parts.unet.dtype}; load it in one of {', '.join(DTYPES)}")
    name = Path(getattr(pipe, "name_or_path", "") or type(pipe).__name__).name
    refuse_others(name, parts)
    # in fp16, gradients would underflow
    text = {key: (_wide(tower), tokenizer) for key, (tower, tokenizer) in parts.text.items()}
    vae = _wide(parts.vae) if parts.xl and parts.vae.config.get("force_upcast") else parts.vae
    parts = Parts(text, parts.unet, vae, parts.scheduler)
    return host_of_parts(parts, clip, weights[0].device, dtype, name)


def add_to_pipeline(pipe: Any, tokens: TokenSet) -> dict[str, str]:
    """Add every token to a diffusers pipeline's text encoders, as ``pipe.load_textual_inversion`` does.

    Args:
        pipe: a pipeline of the model family that the tokens were trained on.

    Returns:
        Label -> the word ``<name>`` for prompts. The pipeline expands it to all vectors of the token.

    Raises:
        TokenError: the text encoders do not match, or the pipeline already has one of the words; nothing is added.
        HostError: the pipeline is of another family.
    """
    text = _parts_of(pipe).text
    pipeline_widths = {name: tower.get_input_embeddings().embedding_dim for name, (tower, _) in text.items()}
    token_widths = {name: vectors.shape[-1] for name, vectors in tokens.vectors.items()}
    if token_widths != pipeline_widths:
        raise TokenError(
            f"the tokens are for {describe_encoders(token_widths)}; this pipeline has {describe_encoders(pipeline_widths)}"
        )
    words = [f"<{name}>" for name in tokens.names]
    suffixes = range(1, max(2, tokens.vectors_per_token))
    for _, tokenizer in text.values():
        if taken := sorted({*words, *(f"{word}_{n}" for word in words for n in suffixes)} & set(tokenizer.get_vocab())):
            raise TokenError(
                f"the pipeline already has {taken[0]}; call pipe.unload_textual_inversion() first, or rename the class"
            )
    vectors = {name: tokens.vectors[name].to(tower.dtype) for name, (tower, _) in text.items()}
    if not all(each.isfinite().all() for each in vectors.values()):
        raise TokenError("the pipeline's number format cannot store the tokens' numbers; load it in bf16 or fp32")
    for name, (tower, tokenizer) in text.items():
        pipe.load_textual_inversion(list(vectors[name]), token=list(words), text_encoder=tower, tokenizer=tokenizer)
    return dict(zip(tokens.labels, words, strict=True))


def _parts_of(pipe: Any) -> Parts:
    from diffusers import DDPMScheduler

    first, second = (
        (getattr(pipe, f"text_encoder{n}", None), getattr(pipe, f"tokenizer{n}", None)) for n in ("", "_2")
    )
    unet, vae, scheduler = (getattr(pipe, name, None) for name in ("unet", "vae", "scheduler"))
    if scheduler is None or any(part is None for part in (*first, unet, vae)):
        raise HostError(
            f"a {type(pipe).__name__} lacks parts of Stable Diffusion 1.x, 2.x or XL (base); give a pipeline of one of these"
        )
    text = by_name(first, None if second[0] is None else second)
    return Parts(text, unet, vae, DDPMScheduler.from_config(scheduler.config))


def _wide(module: Any) -> Any:
    return deepcopy(module).float() if module.dtype == torch.float16 else module
