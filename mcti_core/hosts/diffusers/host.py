"""A host made of diffusers and transformers models: SD 1.x, 2.x and XL, epsilon- and v-prediction."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import HostError
from ..base import Host
from ..checkpointing import checkpointed
from ..features import TextFeatures, hidden_at, on_device
from ..fingerprint import fingerprint
from ..gradient_scaling import scale_gradients
from .clip_space import load_clip_space
from .loading import DTYPES, Parts, load_parts
from .text_encoder import forward_with_embeds

__all__ = ["ClipTextEncoder", "SDXLDenoiser", "Sessions", "UNetDenoiser", "VaeCodec", "host_of_parts", "load_host"]

_PIXELS_PER_CALL = 512 * 512
"""Pixels per call of the autoencoder; Stable Diffusion's needs 0.4 GB for them (docs/performance.md)."""
_BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock")
"""Names of the UNet blocks to checkpoint."""


def load_host(
    model: str | Path,
    clip: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: str = "fp32",
    config: str | Path | None = None,
) -> Host:
    """Load a Stable Diffusion 1.x, 2.x or XL (base) model, and a CLIP space beside it.

    Args:
        model: a diffusers folder, or a single-file checkpoint (.safetensors or .ckpt).
        clip: a folder with the transformers ``CLIPModel`` that a text encoder of the model comes from; without it there is
            no CLIP space.
        device: the device for the weights.
        dtype: ``"fp32"``, ``"bf16"`` or ``"fp16"``, of the weights. Tokens, latents and losses stay float32, and so do
            text encoders with ``"fp16"``. An SDXL autoencoder that overflows in fp16, as the original one does, stays
            float32.
        config: for a single file without network access, a diffusers folder of the same family (weights not needed).

    Raises:
        HostError: the model is missing, is not of these families, or the CLIP model fits no text encoder.
    """
    if dtype not in DTYPES:
        raise HostError(f"number format {dtype!r} is not one of {', '.join(DTYPES)}")
    path = Path(model)
    if not os.path.exists(path):  # unlike its own method, not an error for a path that no system takes
        raise HostError(f"no model at {path}; give a diffusers folder or a single-file checkpoint")
    parts = load_parts(path, config, DTYPES[dtype])
    for tower, _ in parts.text.values():
        if dtype == "fp16":
            tower.float()  # its gradients would underflow
    for module in parts.modules:
        module.to(device=device).eval().requires_grad_(False)
    for module in (parts.unet, parts.vae):
        module.to(memory_format=torch.channels_last)  # the layout in which convolutions are fastest
    return host_of_parts(parts, clip, torch.device(device), dtype, path.name)


def host_of_parts(parts: Parts, clip: str | Path | None, device: torch.device, dtype: str, name: str) -> Host:
    """The host of loaded models on ``device``; ``clip``, ``dtype`` and errors as for ``load_host``."""
    text = {key: ClipTextEncoder(*pair, penultimate=parts.xl) for key, pair in parts.text.items()}
    codec = VaeCodec(parts.vae)
    denoiser = UNetDenoiser(parts.unet, parts.scheduler)
    if parts.xl:
        denoiser = SDXLDenoiser(parts.unet, parts.scheduler, codec.downscale)
    widths = {key: encoder.width for key, encoder in text.items()}
    space = None if clip is None else load_clip_space(clip, widths, device=device, dtype=dtype)
    modules = [*parts.modules, *([space.module] if space else [])]
    return Host(
        text=text,
        denoiser=denoiser,
        codec=codec,
        clip=space,
        device=device,
        name=name,
        fingerprint=":".join([*map(fingerprint, modules), dtype]),
        image_size=int(parts.unet.config.sample_size) * codec.downscale,
        session=Sessions(modules, parts.unet),
    )


class ClipTextEncoder:
    """A transformers CLIP text tower and tokenizer as a ``TextEncoder``.

    Args:
        tower: ``CLIPTextModel``, or ``CLIPTextModelWithProjection``, whose features have ``pooled`` too.
        tokenizer: its ``CLIPTokenizer``.
        penultimate: the denoiser attends to the last layer's input, without layer norm, as SDXL's does.
    """

    def __init__(self, tower: nn.Module, tokenizer: Any, *, penultimate: bool = False):
        self.tower, self.tokenizer, self.penultimate = tower, tokenizer, penultimate
        self.table: nn.Embedding = tower.get_input_embeddings()  # type: ignore[operator]
        self.vocabulary_size, self.width = self.table.weight.shape
        self.length = int(tower.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]
        self.bos_token_id, self.eos_token_id = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)
        self.pad_token_id = int(tokenizer.pad_token_id)

    def tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

    def embed(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.table.weight).float()

    def encode(self, ids: Tensor, embeds: Tensor) -> TextFeatures:
        embeds = embeds.to(self.table.weight.dtype)
        output = forward_with_embeds(self.tower, ids, embeds, output_hidden_states=self.penultimate)
        hidden = output.last_hidden_state
        context = output.hidden_states[-2] if self.penultimate else hidden
        projection = getattr(self.tower, "text_projection", None)
        if projection is None:
            return TextFeatures(context, hidden)
        end = (ids[:, 1:] == self.eos_token_id).int().argmax(1) + 1  # the first one: padding may be the same id
        return TextFeatures(context, hidden, projection(hidden_at(hidden, end)))


class UNetDenoiser:
    """A diffusers UNet as a ``Denoiser``, in x = x0 + sigma * eps."""

    def __init__(self, unet: Any, scheduler: Any):
        self.unet = unet
        self.dtype: torch.dtype = unet.dtype  # which walks through all modules of the model each time
        self.prediction = str(scheduler.config.prediction_type)
        if self.prediction not in ("epsilon", "v_prediction"):
            raise HostError(f"the model predicts {self.prediction!r}; only epsilon and v_prediction are known here")
        # zero for schedules that end in pure noise, which has no finite sigma
        alpha_bar = scheduler.alphas_cumprod.double().clamp(min=2**-24)
        device = next(unet.parameters()).device
        self.sigmas = ((1 - alpha_bar) / alpha_bar).sqrt().float().to(device)  # (T,)
        self._log_sigmas = self.sigmas.log()

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return latents + noise * sigma.view(-1, 1, 1, 1)

    def denoise(self, noised: Tensor, sigma: Tensor, conditioning: Mapping[str, TextFeatures]) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        scaled = noised / (s.square() + 1).sqrt()  # x_t of DDPM: sqrt(alpha_bar) * x
        step = (self._log_sigmas[None] - sigma.log()[:, None]).abs().argmin(1)
        conditioning, unscale = scale_gradients(conditioning, self.dtype)
        context = torch.cat([features.context for features in conditioning.values()], dim=-1).to(self.dtype)
        added = self.added(noised, conditioning)
        output = self.unet(scaled.to(self.dtype), step, encoder_hidden_states=context, added_cond_kwargs=added).sample
        output = unscale(output)
        if self.prediction == "epsilon":
            return noised - s * output
        return scaled / (s.square() + 1).sqrt() - output * s / (s.square() + 1).sqrt()  # x0 = alpha * x_t - sigma_t * v

    def added(self, noised: Tensor, conditioning: Mapping[str, TextFeatures]) -> dict[str, Tensor] | None:
        """Inputs of the UNet beside time and context."""
        return None

    def weight(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma) if self.prediction == "epsilon" else sigma.square() + 1


class SDXLDenoiser(UNetDenoiser):
    """An SDXL UNet as a ``Denoiser``, which also gets the pooled text and the image's size.

    Args:
        downscale: of the autoencoder, since sizes are in pixels.

    References:
        Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", arXiv 2307.01952,
        section 2.2.
    """

    def __init__(self, unet: Any, scheduler: Any, downscale: int):
        super().__init__(unet, scheduler)
        self.downscale = downscale

    def added(self, noised: Tensor, conditioning: Mapping[str, TextFeatures]) -> dict[str, Tensor]:
        (pooled,) = (features.pooled for features in conditioning.values() if features.pooled is not None)
        height, width = (side * self.downscale for side in noised.shape[-2:])
        # for an image without resizing and cropping: original size, crop, target size
        sizes = on_device(torch.tensor([height, width, 0, 0, height, width]), noised.device)
        return {"text_embeds": pooled.to(self.dtype), "time_ids": sizes.expand(len(noised), -1)}


class VaeCodec:
    """A diffusers autoencoder as a ``LatentCodec``."""

    def __init__(self, vae: Any):
        self.vae, self.dtype = vae, vae.dtype
        self.scale = float(vae.config.scaling_factor)
        channels = vae.config.block_out_channels  # diffusers sets it for AutoencoderTiny too
        self.downscale = int(2 ** (len(channels) - 1))
        self.channels = int(vae.config.latent_channels)

    def encode(self, images: Tensor) -> Tensor:
        return torch.cat([self._encode(part) for part in _in_memory(images)])

    def decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self._decode(part) for part in _in_memory(latents, self.downscale)])

    def _encode(self, images: Tensor) -> Tensor:
        encoded = self.vae.encode((images * 2 - 1).to(self.dtype))
        latents = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
        return latents.float() * self.scale

    def _decode(self, latents: Tensor) -> Tensor:
        return ((self.vae.decode((latents / self.scale).to(self.dtype)).sample.float() + 1) / 2).clamp(0, 1)


def _in_memory(rows: Tensor, pixels: int = 1) -> tuple[Tensor, ...]:
    """Split (B, c, h, w) into parts for an autoencoder: one image of 512 x 512 pixels already keeps a GPU busy.

    Args:
        pixels: pixels per element and side.
    """
    return rows.split(max(1, _PIXELS_PER_CALL // (rows.shape[-2] * rows.shape[-1] * pixels**2)))


class Sessions:
    """``hosts.base.Session`` of models that stay on their device; ``unet`` can be checkpointed."""

    def __init__(self, modules: Iterable[nn.Module], unet: nn.Module):
        # listed once: walking through full-size models takes as long as a small batch of images
        self._weights = [weight for module in modules for weight in module.parameters()]
        self._blocks = [module for module in unet.modules() if type(module).__name__ in _BLOCKS]

    @contextmanager
    def __call__(self, *parts: str, gradients: bool = False, checkpointing: bool = False) -> Iterator[None]:
        trainable = [weight for weight in self._weights if weight.requires_grad]
        for weight in trainable:
            weight.requires_grad_(False)
        try:
            with checkpointed(self._blocks if checkpointing else ()):
                yield
        finally:
            for weight in trainable:
                weight.requires_grad_()
