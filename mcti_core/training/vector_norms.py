"""Keep the norm of token vectors at the vocabulary's, which OneTrainer calls "preserve embedding norm".

A text tower was trained on embeddings of about one norm. With Adam, a learned vector's norm grows with the number of
steps; with this option, only its direction is learned.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..hosts.base import TextEncoder

__all__ = ["rescale_", "vocabulary_norm"]

_ROWS = 4096
"""Embeddings per batch, so that the table of a large text encoder is not copied as a whole."""


@torch.no_grad()
def vocabulary_norm(encoder: TextEncoder, device: torch.device) -> float:
    """The median norm of the vocabulary's embeddings that are not zero. Raises: ValueError: all are zero."""
    parts = torch.arange(encoder.vocabulary_size, device=device).split(_ROWS)
    norms = torch.cat([encoder.embed(ids).norm(dim=-1).cpu() for ids in parts])
    if not norms.any():
        raise ValueError("every embedding of the text encoder's vocabulary is zero")
    return norms[norms > 0].median().item()


@torch.no_grad()
def rescale_(vectors: Mapping[str, Tensor], norms: Mapping[str, float]) -> None:
    """Rescale the vectors (C, V, d) of each encoder to its norm, in place.

    Zero vectors have no direction and stay. A training may start from one, as with the pocket checkpoint's generic word,
    and its vectors get the norm after the first step.
    """
    for name, target in norms.items():
        norm = vectors[name].norm(dim=-1, keepdim=True)
        vectors[name].mul_(torch.where(norm > 0, target / norm, torch.ones_like(norm)))
