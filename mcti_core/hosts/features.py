"""Outputs of text encoders: features of one CLIP tower, or a host's conditioning for whole prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Conditioning", "Features", "TextFeatures", "hidden_at", "joined", "on_device"]


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
    pooled: Tensor | None = None
    """(B, p) the encoder's own projection of the end-of-text row, only if the denoiser needs it (SDXL's ``clip_g``)."""

    def rows(self, index: Tensor | slice) -> TextFeatures:
        """The features of prompts ``index`` (N,), in this order; indices may repeat."""
        index = index if isinstance(index, slice) else on_device(index, self.context.device)
        pooled = None if self.pooled is None else self.pooled[index]
        return TextFeatures(self.context[index], self.hidden[index], pooled)

    def to(self, device: torch.device) -> TextFeatures:
        """Non-blocking copy of the features to the device."""
        pooled = None if self.pooled is None else on_device(self.pooled, device)
        return TextFeatures(on_device(self.context, device), on_device(self.hidden, device), pooled)

    @staticmethod
    def joined(parts: Sequence[TextFeatures]) -> TextFeatures:
        """Concatenate the rows of all parts."""
        if len(parts) == 1:
            return parts[0]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return TextFeatures(
            torch.cat([part.context for part in parts]),
            torch.cat([part.hidden for part in parts]),
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
    """A host's own encoding of B prompts. The meaning of the tensors is private to that host."""

    named: Mapping[str, Tensor]
    """Tensors (B, ...) by name, padded with zeros if prompts differ in size."""
    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    """Shapes without the padding, by prompt and name."""

    @staticmethod
    def of(prompts: Sequence[Mapping[str, Tensor]]) -> Conditioning:
        """Stack the encodings of single prompts: (1, ...) tensors with the same names."""
        shapes = tuple({name: tuple(tensor.shape[1:]) for name, tensor in prompt.items()} for prompt in prompts)
        sizes = {name: [max(s) for s in zip(*(each[name] for each in shapes), strict=True)] for name in shapes[0]}
        named = {name: torch.cat([_padded(p[name], size) for p in prompts]) for name, size in sizes.items()}
        return Conditioning(named, shapes)

    def single(self, row: int) -> dict[str, Tensor]:
        """The encoding of one prompt without padding: tensors (1, ...) by name."""
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
        """The floating-point tensors, to which gradients flow; B rows each."""
        return {name: tensor for name, tensor in self.named.items() if tensor.is_floating_point()}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Conditioning:
        """The same prompts with these tensors."""
        return replace(self, named={**self.named, **tensors})


def _padded(tensor: Tensor, size: Sequence[int]) -> Tensor:
    padding = [n for have, want in zip(tensor.shape[:0:-1], size[::-1], strict=True) for n in (0, want - have)]
    return F.pad(tensor, padding)


Features = TextFeatures | Conditioning
"""Conditioning of a denoiser for B prompts: from one text encoder, or from the whole prompts."""


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Features]:
    """Concatenate the rows of all parts, by key."""
    return {key: features.joined([part[key] for part in parts]) for key, features in parts[0].items()}
