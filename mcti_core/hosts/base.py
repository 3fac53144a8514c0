"""What the core asks of a host. Every model family's quirks stay behind these few calls."""

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
    """(B, L, d) hidden states, (B,) a position in each prompt -> (B, d) those that stand there."""
    return hidden[torch.arange(len(hidden), device=hidden.device), on_device(position, hidden.device)]


@dataclass(frozen=True)
class TextFeatures:
    """What one text encoder says of B prompts."""

    context: Tensor
    """(B, L, d_ctx) what the denoiser attends to."""
    hidden: Tensor
    """(B, L, d) last hidden states after the final layer norm; pooled features are rows of it."""
    end: Tensor
    """(B,) int64 position of the end-of-text token."""
    pooled: Tensor | None = None
    """(B, p) the encoder's own projection of the end-of-text row, only where the denoiser wants it (SDXL's ``clip_g``)."""

    def rows(self, index: Tensor) -> TextFeatures:
        """The features of prompts ``index`` (N,), in that order, with repetition."""
        pooled = None if self.pooled is None else self.pooled[index]
        return TextFeatures(self.context[index], self.hidden[index], self.end[index], pooled)

    def to(self, device: torch.device) -> TextFeatures:
        """The features there, without waiting for a device that is busy."""
        context, hidden, end = (on_device(tensor, device) for tensor in (self.context, self.hidden, self.end))
        return TextFeatures(context, hidden, end, None if self.pooled is None else on_device(self.pooled, device))

    @staticmethod
    def joined(parts: Sequence[TextFeatures]) -> TextFeatures:
        """The rows of all parts, in order."""
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
        """Only what a denoiser reads; of the hidden states, which ``rows`` would copy each time, none (B, 0, d)."""
        return replace(self, hidden=self.hidden.new_empty(len(self.hidden), 0, self.hidden.shape[-1]))


class TextEncoder(Protocol):
    """One text encoder and its tokenizer. Neither is ever changed."""

    width: int
    """d, the width of a token embedding."""
    length: int
    """L, tokens in a padded prompt."""
    vocabulary: int
    begin: int
    end: int
    pad: int

    def tokenize(self, text: str) -> list[int]:
        """Token ids without begin, end or padding."""

    def embed(self, ids: Tensor) -> Tensor:
        """(...) int64 -> (..., d) float32 rows of the token table, without positions."""

    def encode(self, ids: Tensor, embeds: Tensor) -> TextFeatures:
        """(B, L) ids and their (B, L, d) embeddings -> features. Where a learned vector stands, the id is any valid one.

        Prompts may come without their padding, at any common length. CLIP's text towers are causal: what stands up to
        end-of-text is the same then.
        """


class Denoiser(Protocol):
    """The diffusion model as a function from a noised latent to an estimate of the clean one."""

    sigmas: Tensor
    """(T,) float32, ascending: the noise levels of the training schedule."""

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """(B, c, h, w), same, (B,) -> the noised latent, by the family's own rule."""

    def denoise(self, noised: Tensor, sigma: Tensor, text: Mapping[str, TextFeatures]) -> Tensor:
        """(B, c, h, w), (B,), text features of every encoder -> estimate of the clean latent (B, c, h, w) float32."""

    def weight(self, sigma: Tensor) -> Tensor:
        """(B,) -> (B,): the family's loss over the squared noise error; ones where it trains on noise."""


class LatentCodec(Protocol):
    """The autoencoder, in latents as the denoiser takes them."""

    downscale: int
    """Pixels a latent element, usually 8."""
    channels: int
    """c of its latents, 4 in Stable Diffusion 1.x, 2.x and XL, 16 in 3."""

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> scaled latents (B, c, H/8, W/8) float32."""

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, c, h, w) -> (B, 3, 8h, 8w) float32 in [0, 1]."""


class ClipSpace(Protocol):
    """Vision tower, visual projection and text projection: one unit or nothing."""

    encoder: str
    """Which text encoder's hidden states it projects, for example ``"clip_l"``."""

    def image_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, p) float32, not normalised."""

    def project_text(self, pooled: Tensor) -> Tensor:
        """(B, d) pooled hidden states -> (B, p) float32, not normalised."""


class Session(Protocol):
    """Makes parts of a host resident and frozen for the length of a ``with``; sessions may be nested."""

    def __call__(
        self, *parts: str, gradients: bool = False, checkpointing: bool = False
    ) -> AbstractContextManager[object]:
        """``parts`` of "text", "denoiser", "codec" and "clip"; ``gradients`` where backward will run through them.

        ``checkpointing``: the denoiser's blocks keep nothing for backward and are computed again there.
        """


def _nothing_to_do(*parts: str, gradients: bool = False, checkpointing: bool = False) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True)
class Host:
    """A frozen text-to-image model as the core sees it. Parts that are missing are None."""

    text: Mapping[str, TextEncoder]
    """By name: ``{"clip_l": ...}`` for SD 1.x, ``{"clip_l": ..., "clip_g": ...}`` for SDXL."""
    denoiser: Denoiser | None = None
    codec: LatentCodec | None = None
    clip: ClipSpace | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    name: str = "unnamed model"
    """For people: what was loaded."""
    fingerprint: str = ""
    """Changes when any of the models changes; keys cached features and trainings that were broken off."""
    image_size: int = 512
    """Side of the square images that the model was trained on."""
    generic_word: str = "object"
    """A word for anything: the usual first vector of a token."""
    session: Session = _nothing_to_do
    moves_weights: bool = False
    """Whether weights may come and go within a session; ``train`` then verifies what its gradients are computed from."""

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
