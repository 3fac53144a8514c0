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
        captions: (N,) caption template of each example; "" for examples without a caption.
        templates: K templates for images without a caption.

    Raises:
        TokenError: a caption is too long.
    """

    def __init__(self, host: Host, captions: Sequence[str], templates: Sequence[str], num_vectors: int):
        texts = [*templates, *filter(None, captions)]
        self.host, self.template_count = host, len(templates)
        layouts = host_templates(replace(host, clip=None), texts, num_vectors)
        self.prompts = {name: layouts[name] for name in host.conditioned_by}
        captioned = torch.tensor([bool(caption) for caption in captions])
        self.row = torch.where(captioned, len(templates) - 1 + captioned.cumsum(0), -1)
        """(N,) int64 index of each example's prompt; -1 without a caption."""

    def encode(
        self, images: Tensor, share: slice, class_rows: Tensor, vectors: Mapping[str, Tensor], generator: torch.Generator,
        prompts_per_part: int,
    ) -> dict[str, Features]:  # fmt: skip
        """Encoder -> conditioning of the denoiser for this process's images.

        Args:
            images: (B,) int64 indices of examples. Templates are drawn for all of them, so that processes agree.
            share: this process's rows of the batch.
            class_rows: (B,) int64 row of each image's class in ``vectors``.
            vectors, prompts_per_part: as in ``encode_classes``.
        """
        template = torch.randint(0, self.template_count, (len(images),), generator=generator)
        rows = torch.where(self.row[images] < 0, template, self.row[images])[share]
        prompts = {name: layout.rows(rows) for name, layout in self.prompts.items()}
        image_vectors = {name: v[on_device(class_rows[share], v.device)] for name, v in vectors.items()}
        encoded = encode_in_parts(self.host, prompts, image_vectors, prompts_per_part)
        return {name: features.conditioning() for name, features in encoded.items()}
