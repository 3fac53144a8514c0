"""The interface of a host: an adapter of one kind of loaded model, which hides the special cases of its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import HostError
from .features import Conditioning, TextFeatures

__all__ = [
    "WHOLE_PROMPT",
    "ClipSpace",
    "Denoiser",
    "Host",
    "HostPrompts",
    "LatentCodec",
    "PromptEncoder",
    "Session",
    "TextEncoder",
    "TokenTable",
]

WHOLE_PROMPT = "prompt"
"""Key of prompts and conditioning where a host encodes whole prompts itself, used instead of the text encoders' keys."""


@dataclass(frozen=True)
class HostPrompts:
    """B prompts as tokenized by a host. The content is private to that host."""

    tokenized: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.tokenized)

    def rows(self, index: Tensor) -> HostPrompts:
        return HostPrompts(tuple(self.tokenized[row] for row in index.tolist()))


class PromptEncoder(Protocol):
    """All text encoders of a host together, with their chat templates, padding and masks."""

    def tokenize(self, prompts: Sequence[Sequence[tuple[str | int, float]]], num_vectors: int) -> HostPrompts:
        """Tokenize prompts, each a sequence of (text or class index, weight). Class c stands for vectors c * V to (c + 1) * V - 1.

        Raises:
            TokenError: an encoder does not read all of a prompt's tokens.
        """

    def encode(self, prompts: HostPrompts, vectors: Mapping[str, Tensor]) -> Conditioning:
        """Encode B prompts with (B, M, d) vectors of each encoder, or (1, M, d) shared by all prompts. Gradients flow to the vectors."""


class TokenTable(Protocol):
    """A text encoder's tokenizer and token embeddings. Neither changes."""

    width: int
    """d, the width of a token embedding."""
    vocabulary_size: int

    def tokenize(self, text: str) -> list[int]:
        """Token ids without begin-of-text, end-of-text or padding."""

    def embed(self, ids: Tensor) -> Tensor:
        """(...) int64 -> (..., d) float32 rows of the token table, without positions."""


class TextEncoder(TokenTable, Protocol):
    """One CLIP text encoder and its tokenizer."""

    length: int
    """L, number of tokens in a padded prompt."""
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int

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

    def denoise(self, noised: Tensor, sigma: Tensor, conditioning: Mapping[str, Any]) -> Tensor:
        """(B, c, h, w), (B,), B rows of features for each key in ``Host.conditioned_by`` -> clean latent (B, c, h, w) float32."""

    def weight(self, sigma: Tensor) -> Tensor:
        """(B,) -> (B,): factor that turns ``noise_error`` into the family's training loss: 1 for epsilon and flow, sigma^2 + 1 for v."""


class LatentCodec(Protocol):
    """The autoencoder, with latents as the denoiser uses them."""

    downscale: int
    """Pixels per latent element and side, usually 8."""
    channels: int
    """c, number of latent channels: 4 in Stable Diffusion 1.x, 2.x and XL, 16 in 3."""

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> scaled latents (B, c, h, w) float32, h = H / ``downscale``."""

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, c, h, w) -> (B, 3, H, W) float32 in [0, 1]."""


class ClipSpace(Protocol):
    """A CLIP model's image encoder with both projections: vision tower, visual projection and text projection, always all three."""

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


@dataclass(frozen=True)
class Host:
    """A frozen text-to-image model. Missing parts are None."""

    text: Mapping[str, TextEncoder]
    """By the name that ComfyUI looks up in embedding files: ``{"clip_l": ...}`` for SD 1.x, ``{"clip_l": ..., "t5xxl": ...}``
    for Flux. Without ``prompts``, the denoiser reads what these encode. With it, only the CLIP space's encoder must encode,
    and the others, such as T5, may be a ``TokenTable``."""
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
    session: Session = lambda *parts, gradients=False, checkpointing=False: nullcontext()
    moves_weights: bool = False
    """Whether weights can be moved during a session; ``train`` then verifies the tensors that gradients are computed from."""
    prompts: PromptEncoder | None = None
    """Encoder of whole prompts, if the denoiser reads more than the contexts of CLIP's text towers."""
    logit_normal: bool = False
    """Whether the family is trained at time steps from the logit-normal density, as rectified flows are, instead of uniform ones."""

    @property
    def conditioned_by(self) -> tuple[str, ...]:
        """Keys of the features that the denoiser reads."""
        return tuple(self.text) if self.prompts is None else (WHOLE_PROMPT,)

    def require_denoiser(self) -> Denoiser:
        if self.denoiser is None:
            raise HostError(f"{self.name} has no diffusion model here; connect or load one")
        return self.denoiser

    def require_codec(self) -> LatentCodec:
        if self.codec is None:
            raise HostError(f"{self.name} has no VAE here; connect or load one")
        return self.codec

    def require_clip(self) -> ClipSpace:
        if self.clip is None:
            raise HostError(
                f"{self.name} has no CLIP space (vision tower, visual projection and text projection); "
                "give the CLIP model that its text encoder comes from (for SD 1.x: openai clip-vit-large-patch14)"
            )
        return self.clip
