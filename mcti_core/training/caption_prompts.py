"""Condition the denoiser on the caption of each image instead of a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..hosts.base import Host
from ..hosts.features import Features, on_device
from ..prompts.splicing import host_templates
from .objective import encode_in_parts

__all__ = ["CaptionPrompts"]


class CaptionPrompts:
    """Encodes the caption of each image, or a random template for images without one. The classification term uses templates only.

    Args:
        host: host with the text encoders.
        captions: (N,) caption template of each example; empty for examples without a caption.
        templates: K templates for images without a caption.
        num_vectors: V, number of vectors per token.

    Raises:
        TokenError: a caption is too long.
    """

    def __init__(self, host: Host, captions: Sequence[str], templates: Sequence[str], num_vectors: int):
        texts = [*templates, *filter(None, captions)]
        self.host, self.templates = host, len(templates)
        laid_out = host_templates(replace(host, clip=None), texts, num_vectors)
        self.prompts = {name: laid_out[name] for name in host.conditioned_by}
        has_one = torch.tensor([bool(caption) for caption in captions])
        self.row = torch.where(has_one, len(templates) - 1 + has_one.cumsum(0), -1)
        """(N,) int64 index of each example's prompt; -1 without a caption."""

    def encode(
        self,
        images: Tensor,
        share: slice,
        places: Tensor,
        vectors: Mapping[str, Tensor],
        generator: torch.Generator,
        at_once: int,
    ) -> dict[str, Features]:
        """Conditioning of the denoiser for this process's images.

        Args:
            images: (B,) int64 indices of examples. Templates are drawn for all of them, so that processes agree.
            share: this process's rows of the batch.
            places: (B,) int64 row of each image's class in ``vectors``.
            vectors: encoder -> (A, V, d).
            generator: draws the templates.
            at_once: maximum number of prompts per pass, as in ``encode_classes``.

        Returns:
            Encoder -> features of this process's images.
        """
        drawn = torch.randint(0, self.templates, (len(images),), generator=generator)
        rows = torch.where(self.row[images] < 0, drawn, self.row[images])[share]
        picked = {name: prompts.rows(rows) for name, prompts in self.prompts.items()}
        own = {name: v[on_device(places[share], v.device)] for name, v in vectors.items()}
        encoded = encode_in_parts(self.host, picked, own, at_once)
        return {name: features.conditioning() for name, features in encoded.items()}
