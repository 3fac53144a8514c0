"""The interface of a host. It hides the special cases of every model family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import HostError

__all__ = [
    "WHOLE",
    "ClipSpace",
    "Conditioning",
    "Denoiser",
    "Features",
    "Host",
    "HostPrompts",
    "LatentCodec",
    "PromptEncoder",
    "Session",
    "TextEncoder",
    "TextFeatures",
    "TokenTable",
    "hidden_at",
    "joined",
    "on_device",
]


WHOLE = "prompt"
"""Key of the prompts that a host tokenizes and encodes itself, beside the keys of text encoders."""


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

    def rows(self, index: Tensor | slice) -> TextFeatures:
        """The features of prompts ``index`` (N,), in this order; indices may repeat."""
        index = index if isinstance(index, slice) else on_device(index, self.context.device)
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

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a denoiser reads, B rows each; gradients flow to them."""
        return {"context": self.context, **({} if self.pooled is None else {"pooled": self.pooled})}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> TextFeatures:
        """The same features with these ``tensors()``."""
        return replace(self, **tensors)


@dataclass(frozen=True)
class Conditioning:
    """What a host's own encoding makes of B prompts. Only this host knows what the tensors are."""

    named: Mapping[str, Tensor]
    """(B, ...) each. Where prompts differ in size, they are filled up with zeros."""
    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    """By prompt and name, the shape without the zeros."""

    @staticmethod
    def of(prompts: Sequence[Mapping[str, Tensor]]) -> Conditioning:
        """Stack what is encoded of single prompts, (1, ...) tensors of the same names each."""
        shapes = tuple({name: tuple(tensor.shape[1:]) for name, tensor in prompt.items()} for prompt in prompts)
        sizes = {name: [max(s) for s in zip(*(each[name] for each in shapes), strict=True)] for name in shapes[0]}
        return Conditioning(
            {name: torch.cat([_filled_up(p[name], size) for p in prompts]) for name, size in sizes.items()}, shapes
        )

    def single(self, row: int) -> dict[str, Tensor]:
        """What was encoded of one prompt, (1, ...) each."""
        shapes = self.shapes[row]
        return {name: t[row : row + 1][(slice(None), *map(slice, shapes[name]))] for name, t in self.named.items()}

    def rows(self, index: Tensor | slice) -> Conditioning:
        """Prompts ``index`` (N,), in this order; indices may repeat."""
        numbers = range(len(self.shapes))[index] if isinstance(index, slice) else index.tolist()
        named = {
            name: tensor[index if isinstance(index, slice) else on_device(index, tensor.device)]
            for name, tensor in self.named.items()
        }
        return Conditioning(named, tuple(self.shapes[number] for number in numbers))

    def to(self, device: torch.device) -> Conditioning:
        """Non-blocking copy to the device."""
        return self.with_tensors({name: on_device(tensor, device) for name, tensor in self.named.items()})

    @staticmethod
    def joined(parts: Sequence[Conditioning]) -> Conditioning:
        """Concatenate the rows of all parts."""
        return Conditioning.of([part.single(row) for part in parts for row in range(len(part.shapes))])

    def conditioning(self) -> Conditioning:
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Those that gradients flow to, B rows each."""
        return {name: tensor for name, tensor in self.named.items() if tensor.is_floating_point()}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Conditioning:
        """The same prompts with these tensors."""
        return replace(self, named={**self.named, **tensors})


def _filled_up(tensor: Tensor, size: Sequence[int]) -> Tensor:
    return F.pad(
        tensor, [n for have, want in zip(tensor.shape[:0:-1], size[::-1], strict=True) for n in (0, want - have)]
    )


Features = TextFeatures | Conditioning
"""What a denoiser reads of B prompts: by text encoder, or of the whole prompts."""


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Features]:
    """Concatenate the rows of all parts, by key."""
    return {key: features.joined([part[key] for part in parts]) for key, features in parts[0].items()}


@dataclass(frozen=True)
class HostPrompts:
    """B prompts as a host tokenizes them. Only this host looks inside."""

    tokenized: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.tokenized)

    def rows(self, index: Tensor) -> HostPrompts:
        return HostPrompts(tuple(self.tokenized[row] for row in index.tolist()))

    def without_padding(self) -> HostPrompts:
        return self


class PromptEncoder(Protocol):
    """All text encoders of a host together, with its own templates, padding and masks."""

    def tokenize(self, prompts: Sequence[Sequence[tuple[str | int, float]]], vectors: int) -> HostPrompts:
        """Prompts of texts and classes, each with its weight. Class c has the vectors c * V to (c + 1) * V - 1.

        Raises:
            TokenError: an encoder does not read all of a prompt's tokens.
        """

    def encode(self, prompts: HostPrompts, vectors: Mapping[str, Tensor]) -> Conditioning:
        """B prompts, and by encoder (B, M, d) vectors, or (1, M, d) for all prompts. Gradients flow to the vectors."""


class TokenTable(Protocol):
    """A text encoder's tokenizer and token embeddings. Neither changes."""

    width: int
    """d, the width of a token embedding."""
    vocabulary: int

    def tokenize(self, text: str) -> list[int]:
        """Token ids without begin, end or padding."""

    def embed(self, ids: Tensor) -> Tensor:
        """(...) int64 -> (..., d) float32 rows of the token table, without positions."""


class TextEncoder(TokenTable, Protocol):
    """One CLIP text encoder and its tokenizer."""

    length: int
    """L, number of tokens in a padded prompt."""
    begin: int
    end: int
    pad: int

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

    def denoise(self, noised: Tensor, sigma: Tensor, text: Mapping[str, Any]) -> Tensor:
        """(B, c, h, w), (B,), what ``Host.conditioned_by`` names -> estimate of the clean latent (B, c, h, w) float32."""

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
    """By the name that ComfyUI looks up in embedding files: ``{"clip_l": ...}`` for SD 1.x, ``{"clip_l": ..., "t5xxl": ...}``
    for Flux. Without ``prompts``, the denoiser reads what these encode; with it, only the CLIP space's need encode."""
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
    prompts: PromptEncoder | None = None
    """Encodes whole prompts, where the denoiser reads more than the contexts of CLIP's text towers."""

    @property
    def conditioned_by(self) -> tuple[str, ...]:
        """Keys of the features that the denoiser reads."""
        return tuple(self.text) if self.prompts is None else (WHOLE,)

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
