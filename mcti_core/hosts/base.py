"""The interface of a host. It hides the special cases of every model family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from ..errors import HostError

__all__ = [
    "ClipSpace",
    "Denoiser",
    "Host",
    "LatentCodec",
    "Session",
    "TextEncoder",
    "TextFeatures",
    "hidden_at",
    "on_device",
]


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Non-blocking copy to the device through pinned memory."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def hidden_at(hidden: Tensor, position: Tensor) -> Tensor:
    """(B, L, d) hidden states, (B,) a position per prompt -> (B, d) hidden states at these positions."""
    return hidden[torch.arange(len(hidden), device=hidden.device), on_device(position, hidden.device)]


@dataclass(frozen=True)
class TextFeatures:
    """Output of one text encoder for B prompts."""

    context: Tensor
    """(B, L, d_ctx) context that the denoiser attends to."""
    hidden: Tensor
    """(B, L, d) last hidden states after the final layer norm; pooled features are rows of it."""
    end: Tensor
    """(B,) int64 position of the end-of-text token."""
    pooled: Tensor | None = None
    """(B, p) the encoder's own projection of the end-of-text row, only if the denoiser needs it (SDXL's ``clip_g``)."""

    def rows(self, index: Tensor) -> TextFeatures:
        """The features of prompts ``index`` (N,), in this order; indices may repeat."""
        pooled = None if self.pooled is None else self.pooled[index]
        return TextFeatures(self.context[index], self.hidden[index], self.end[index], pooled)

    def to(self, device: torch.device) -> TextFeatures:
        """Non-blocking copy of the features to the device."""
        context, hidden, end = (on_device(tensor, device) for tensor in (self.context, self.hidden, self.end))
        return TextFeatures(context, hidden, end, None if self.pooled is None else on_device(self.pooled, device))

    @staticmethod
    def joined(parts: Sequence[TextFeatures]) -> TextFeatures:
        """Concatenate the rows of all parts."""
        if len(parts) == 1:
            return parts[0]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return TextFeatures(
            torch.cat([part.context for part in parts]),
            torch.cat([part.hidden for part in parts]),
            torch.cat([part.end for part in parts]),
            torch.cat(pooled) if pooled else None,
        )

    def conditioning(self) -> TextFeatures:
        """Only the tensors that a denoiser reads; the hidden states, which ``rows`` would copy each time, become (B, 0, d)."""
        return replace(self, hidden=self.hidden.new_empty(len(self.hidden), 0, self.hidden.shape[-1]))


class TextEncoder(Protocol):
    """One text encoder and its tokenizer. Neither changes."""

    width: int
    """d, the width of a token embedding."""
    length: int
    """L, number of tokens in a padded prompt."""
    vocabulary: int
    begin: int
    end: int
    pad: int

    def tokenize(self, text: str) -> list[int]:
        """Token ids without begin, end or padding."""

    def embed(self, ids: Tensor) -> Tensor:
        """(...) int64 -> (..., d) float32 rows of the token table, without positions."""

    def encode(self, ids: Tensor, embeds: Tensor) -> TextFeatures:
        """(B, L) ids and their (B, L, d) embeddings -> features. At a learned vector, the id is any valid one.

        Prompts may have no padding, at any common length. CLIP's text towers are causal, so the features up to
        end-of-text are then the same.
        """


class Denoiser(Protocol):
    """The diffusion model as a function from a noised latent to an estimate of the clean latent."""

    sigmas: Tensor
    """(T,) float32, ascending: the noise levels of the training schedule."""

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """(B, c, h, w), same, (B,) -> the noised latent, by the model family's rule."""

    def denoise(self, noised: Tensor, sigma: Tensor, text: Mapping[str, TextFeatures]) -> Tensor:
        """(B, c, h, w), (B,), text features of every encoder -> estimate of the clean latent (B, c, h, w) float32."""

    def weight(self, sigma: Tensor) -> Tensor:
        """(B,) -> (B,): the family's loss divided by the squared noise error; ones if it trains on noise."""


class LatentCodec(Protocol):
    """The autoencoder, with latents as the denoiser uses them."""

    downscale: int
    """Pixels per latent element and side, usually 8."""
    channels: int
    """c, number of latent channels: 4 in Stable Diffusion 1.x, 2.x and XL, 16 in 3."""

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> scaled latents (B, c, H/8, W/8) float32."""

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, c, h, w) -> (B, 3, 8h, 8w) float32 in [0, 1]."""


class ClipSpace(Protocol):
    """Vision tower, visual projection and text projection; always all three."""

    encoder: str
    """Name of the text encoder whose hidden states it projects, for example ``"clip_l"``."""

    def image_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, p) float32, not normalised."""

    def project_text(self, pooled: Tensor) -> Tensor:
        """(B, d) pooled hidden states -> (B, p) float32, not normalised."""


class Session(Protocol):
    """Load and freeze parts of a host for the duration of a ``with``; sessions can be nested."""

    def __call__(
        self, *parts: str, gradients: bool = False, checkpointing: bool = False
    ) -> AbstractContextManager[object]:
        """``parts``: any of "text", "denoiser", "codec" and "clip"; ``gradients``: whether the backward pass runs through them.

        ``checkpointing``: the denoiser's blocks save no activations and are recomputed in the backward pass.
        """


def _nothing_to_do(*parts: str, gradients: bool = False, checkpointing: bool = False) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True)
class Host:
    """A frozen text-to-image model. Missing parts are None."""

    text: Mapping[str, TextEncoder]
    """By name: ``{"clip_l": ...}`` for SD 1.x, ``{"clip_l": ..., "clip_g": ...}`` for SDXL."""
    denoiser: Denoiser | None = None
    codec: LatentCodec | None = None
    clip: ClipSpace | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    name: str = "unnamed model"
    """Description of the loaded model, for messages."""
    fingerprint: str = ""
    """Hash that changes with any of the models; the key of cached features and interrupted trainings."""
    image_size: int = 512
    """Side of the square images that the model was trained on."""
    generic_word: str = "object"
    """General word whose embedding is the default initial vector of a token."""
    session: Session = _nothing_to_do
    moves_weights: bool = False
    """Whether weights can be moved during a session; ``train`` then verifies the tensors that gradients are computed from."""

    def need_denoiser(self) -> Denoiser:
        if self.denoiser is None:
            raise HostError(f"{self.name} has no diffusion model here; connect or load one")
        return self.denoiser

    def need_codec(self) -> LatentCodec:
        if self.codec is None:
            raise HostError(f"{self.name} has no VAE here; connect or load one")
        return self.codec

    def need_clip(self) -> ClipSpace:
        if self.clip is None:
            raise HostError(
                f"{self.name} has no CLIP space (vision tower, visual projection and text projection); "
                "give the CLIP model its text encoder comes from (for SD 1.x: openai clip-vit-large-patch14)"
            )
        return self.clip
