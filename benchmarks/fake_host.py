"""Stable Diffusion at full size as a host whose models have shapes but no data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mcti_core.hosts.base import Host
from mcti_core.hosts.clip_preprocess import CLIP_MEAN, CLIP_STD
from mcti_core.hosts.diffusers.clip_space import ClipModelSpace
from mcti_core.hosts.diffusers.host import ClipTextEncoder, SDXLDenoiser, Sessions, UNetDenoiser, VaeCodec
from mcti_core.hosts.diffusers.loading import DTYPES

from . import models
from .fake_models import FakeTensors

__all__ = ["fake_host"]


def fake_host(name: str, dtype: str, fakes: FakeTensors) -> tuple[Host, dict[str, list[nn.Module]]]:
    """One of ``models.MODELS`` as a host like ``load_host``'s, but without data; and its modules by part."""
    layout = models.MODELS[name]
    assert layout is not None
    modules = _modules(layout, dtype, fakes)
    towers = dict(zip(("clip_l", "clip_g"), modules["text"], strict=False))
    (unet,), (vae,), (clip,) = modules["denoiser"], modules["codec"], modules["clip"]
    text = {key: ClipTextEncoder(tower, Words(), penultimate=layout.xl) for key, tower in towers.items()}
    codec, space = VaeCodec(vae), ClipModelSpace(clip, "clip_l", layout.vision["image_size"], CLIP_MEAN, CLIP_STD)
    denoiser = SDXLDenoiser(unet, _scheduler(), codec.downscale) if layout.xl else UNetDenoiser(unet, _scheduler())
    for encoder in text.values():
        _fake_methods(fakes, encoder, "embed", "encode")
    _fake_methods(fakes, denoiser, "denoise")
    _fake_methods(fakes, codec, "encode", "decode")
    _fake_methods(fakes, space, "image_features", "project_text")
    session = Sessions([module for part in modules.values() for module in part], unet)
    return Host(text, denoiser, codec, space, name=name, image_size=layout.size, session=session), modules


class Words:
    """A tokenizer without a vocabulary: every word is one token."""

    bos_token_id, eos_token_id, pad_token_id = models.VOCABULARY - 2, models.VOCABULARY - 1, models.VOCABULARY - 1

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}


def _modules(layout: models.Layout, dtype: str, fakes: FakeTensors) -> dict[str, list[Any]]:
    """Modules by part, in the dtypes and the memory layout of ``load_host``."""
    wide, text = DTYPES[dtype], torch.float32 if dtype == "fp16" else DTYPES[dtype]
    with fakes.fake:
        with _default(text):
            towers = _towers(layout.xl)
        with _default(wide):
            unet, clip = models.random_unet(layout), models.clip_model(layout.vision)
        with _default(text if layout.xl else wide):  # SDXL's autoencoder overflows in float16
            vae = models.random_autoencoder(layout)
        del clip.text_model
        _channels_last(unet)
        _channels_last(vae)
    modules = {"text": towers, "denoiser": [unet], "codec": [vae], "clip": [clip]}
    for module in (module for part in modules.values() for module in part):
        module.eval().requires_grad_(False)
    return modules


def _towers(xl: bool) -> list[nn.Module]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    ids = {"vocab_size": models.VOCABULARY, "bos_token_id": Words.bos_token_id, "eos_token_id": Words.eos_token_id}
    ids["pad_token_id"] = Words.pad_token_id
    towers: list[nn.Module] = [CLIPTextModel(CLIPTextConfig(**models.CLIP_L, **ids, projection_dim=768))]
    if xl:
        config = CLIPTextConfig(**models.CLIP_G, **ids, projection_dim=1280, hidden_act="gelu")
        towers.append(CLIPTextModelWithProjection(config))
    return towers


def _scheduler() -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


def _channels_last(model: nn.Module) -> None:
    """Equivalent of ``model.to(memory_format=torch.channels_last)``, which refuses weights without data."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim == 4:
                turned = weight.detach().contiguous(memory_format=torch.channels_last)
                setattr(module, name, nn.Parameter(turned, requires_grad=False))


def _fake_methods(fakes: FakeTensors, owner: Any, *methods: str) -> None:
    for method in methods:
        setattr(owner, method, fakes.faked(getattr(owner, method)))


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
