"""Token vectors kept as long as the vocabulary's: an option that OneTrainer calls "preserve embedding norm".

A text tower has only ever read embeddings of about one length. Under Adam a learned vector's length is free, and grows with the number
of steps; with this, training decides on its direction alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..hosts.base import TextEncoder

__all__ = ["rescale_", "vocabulary_norm"]

_ROWS = 4096
"""Embeddings read at once: the table of a large text encoder is not copied as a whole."""


@torch.no_grad()
def vocabulary_norm(encoder: TextEncoder, device: torch.device) -> float:
    """The median length of the vocabulary's embeddings; words whose embedding is all zero do not count.

    Args:
        encoder: whose table is read.
        device: where it takes ids.

    Raises:
        ValueError: every embedding is zero.
    """
    parts = torch.arange(encoder.vocabulary, device=device).split(_ROWS)
    norms = torch.cat([encoder.embed(ids).norm(dim=-1).cpu() for ids in parts])
    if not norms.any():
        raise ValueError("every embedding of the text encoder's vocabulary is zero")
    return norms[norms > 0].median().item()


@torch.no_grad()
def rescale_(vectors: Mapping[str, Tensor], norms: Mapping[str, float]) -> None:
    """Bring each of the (C, V, d) vectors of each encoder to its norm, in place.

    A vector of zero has no direction and stays: so a training may start from one (the pocket checkpoint's generic word is one, since
    no drawing of its world is "a glyph" rather than another) and is brought to the norm after its first step.
    """
    for name, vector in vectors.items():
        lengths = vector.norm(dim=-1, keepdim=True)
        vector.mul_(torch.where(lengths > 0, norms[name] / lengths, torch.ones_like(lengths)))
