"""The two loss terms of one step, for random prompts, images, noise levels and noises.

The formulas are in ``mcti_core/losses.py`` and ``mcti_core/noise_levels.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..data.buckets import rows_by_size
from ..data.feature_cache import FeatureCache
from ..hosts.base import Denoiser, Host
from ..hosts.features import Features, TextFeatures, hidden_at, joined, on_device
from ..losses import class_logits, classification_loss, noise_error
from ..noise_levels import random_steps
from ..prompts.splicing import AnyPrompts, Prompts, encode_prompts
from .config import TrainConfig
from .micro_batches import in_micro_batches

__all__ = ["ClassPrompts", "batch_classification_loss", "encode_classes", "encode_in_parts", "reconstruction_loss"]


@dataclass(frozen=True)
class ClassPrompts:
    """Encoded prompts of S classes. All S feed the classification loss; U of them also condition the denoiser."""

    classes: Tensor
    """(S,) int64, ascending."""
    pooled: Tensor | None
    """(S, d) hidden states of the CLIP space's encoder at the position of the text feature; None without a CLIP space."""
    conditioning_classes: Tensor
    """(U,) int64, ascending: the classes that condition the denoiser."""
    conditioning: Mapping[str, Features]
    """Encoder -> features of their prompts, U rows; empty if U is 0."""

    def conditioning_of(self, labels: Tensor) -> dict[str, Features]:
        """Labels (B,), each in ``conditioning_classes`` -> features of their prompts, B rows."""
        rows = torch.searchsorted(self.conditioning_classes, labels)
        return {name: features.rows(rows) for name, features in self.conditioning.items()}


def encode_classes(
    host: Host, templates: Mapping[str, AnyPrompts], vectors: Mapping[str, Tensor], active: Tensor, classes: Tensor,
    conditioning_classes: Tensor, pooling: str, generator: torch.Generator, prompts_per_part: int = 0,
) -> ClassPrompts:  # fmt: skip
    """Encode each class in a random template, which is the same for all encoders.

    The denoiser needs the features of all encoders, including padding. Prompts for the classification term alone are encoded
    by the CLIP space's encoder only, and without padding: much shorter, with the same text feature.

    Args:
        templates: all K templates, by ``host_templates``.
        vectors: encoder -> (A, V, d) vectors of the active classes.
        active: (A,) int64, ascending.
        classes: (S,) int64, ascending; a subset of the active classes.
        conditioning_classes: (U,) int64, ascending; the subset of ``classes`` whose prompts condition the denoiser.
        pooling: ``"eot"`` or ``"token"``.
        prompts_per_part: maximum number of prompts whose graph is in memory, by re-encoding them in the backward pass; 0
            for all.
    """
    rows = torch.searchsorted(active, classes)  # (S,) of ``vectors``
    # drawn for all active classes, so that later draws do not depend on the choice of classes
    template_count = len(next(iter(templates.values())))
    template = torch.randint(0, template_count, (len(active),), generator=generator)[rows]
    conditions = torch.isin(classes, conditioning_classes)
    conditioning: dict[str, Features] = {}
    pooled, order = [], []
    for part, encoders in ((conditions, host.conditioned_by), (~conditions, ())):
        if not part.any():
            continue
        clip_encoder = () if host.clip is None else (host.clip.encoder,)
        prompts = {name: templates[name].rows(template[part]) for name in dict.fromkeys((*encoders, *clip_encoder))}
        for name, layout in prompts.items():
            if isinstance(layout, Prompts) and name not in encoders:
                prompts[name] = layout.without_padding()
        class_vectors = {name: v[on_device(rows[part], v.device)] for name, v in vectors.items()}
        features = encode_in_parts(host, prompts, class_vectors, prompts_per_part)
        conditioning |= {name: features[name].conditioning() for name in encoders}
        order.append(part.nonzero()[:, 0])
        for name in clip_encoder:
            text, layout = features[name], prompts[name]
            assert isinstance(text, TextFeatures)
            assert isinstance(layout, Prompts)
            pooled.append(hidden_at(text.hidden, layout.pooling_position(pooling)))
    ascending = torch.cat(pooled)[on_device(torch.cat(order).argsort(), pooled[0].device)] if pooled else None
    return ClassPrompts(classes, ascending, conditioning_classes, conditioning)


def encode_in_parts(
    host: Host, prompts: Mapping[str, AnyPrompts], vectors: Mapping[str, Tensor], prompts_per_part: int
) -> dict[str, Features]:
    """``encode_prompts`` with one row of vectors per prompt, in checkpointed parts."""
    rows = torch.arange(len(next(iter(vectors.values()))))
    if not 0 < prompts_per_part < len(rows):
        return encode_prompts(host, prompts, vectors)
    parts = []
    for part in rows.split(prompts_per_part):
        part_prompts = {name: layout.rows(part) for name, layout in prompts.items()}
        part_vectors = {name: v[part[0] : part[-1] + 1] for name, v in vectors.items()}
        parts.append(
            checkpoint(encode_prompts, host, part_prompts, part_vectors, use_reentrant=False, preserve_rng_state=False)
        )
    return joined(parts)


def reconstruction_loss(
    host: Host, cache: FeatureCache, images: Tensor, conditioning: Mapping[str, Features], generator: torch.Generator, *,
    micro_batch_size: int = 0, share: slice = slice(None),
) -> Tensor:  # fmt: skip
    """L_ldm: the weighted noise error of the images' latents with their classes' prompts.

    Time steps are drawn as the model family is trained: uniform or logit-normal.

    Args:
        images: (B,) int64 indices into the cache; of each, the image or its mirror image is drawn.
        conditioning: features of the prompts of the share's images.
        micro_batch_size: images per pass of the denoiser; 0 for all.
        share: this process's rows of the batch, at least one. Random draws are for the whole batch.

    Returns:
        (rows of the share,) float32.
    """
    denoiser = host.require_denoiser()
    assert cache.latents is not None  # checked by check_training
    view = _random_view(cache.latents, images, generator)
    latents = cache.latents[images, view]
    step = random_steps(len(denoiser.sigmas), len(images), generator, host.logit_normal)
    noise = torch.randn(latents.shape, generator=generator)
    latents, step, noise = (on_device(draw[share], host.device) for draw in (latents, step, noise))
    sigma = denoiser.sigmas[step]
    mask = None if cache.masks is None else on_device(cache.masks[images, view][share], host.device)
    if cache.sizes is None:
        return _noise_errors(denoiser, latents, noise, sigma, mask, conditioning, micro_batch_size)
    errors, order = [], []
    for (height, width), rows in rows_by_size(cache.sizes[images][share]):
        order.append(rows)
        device_rows = on_device(rows, host.device)
        x0, eps = (each[device_rows][..., :height, :width] for each in (latents, noise))
        bucket_mask = None if mask is None else mask[device_rows][..., :height, :width]
        text = {name: features.rows(rows) for name, features in conditioning.items()}
        errors.append(_noise_errors(denoiser, x0, eps, sigma[device_rows], bucket_mask, text, micro_batch_size))
    return torch.cat(errors)[on_device(torch.cat(order).argsort(), host.device)]


def _noise_errors(
    denoiser: Denoiser, latents: Tensor, noise: Tensor, sigma: Tensor, mask: Tensor | None,
    conditioning: Mapping[str, Features], micro_batch_size: int,
) -> Tensor:  # fmt: skip
    """(B,) losses of images of one size."""

    def losses(part: slice, conditioning: Mapping[str, Features]) -> Tensor:
        x0, level = latents[part], sigma[part]
        estimate = denoiser.denoise(denoiser.noised(x0, noise[part], level), level, conditioning)
        return denoiser.weight(level) * noise_error(x0, estimate, level, None if mask is None else mask[part])

    if 0 < micro_batch_size < len(latents):
        return in_micro_batches(losses, conditioning, micro_batch_size)
    return losses(slice(None), conditioning)


def batch_classification_loss(
    host: Host, cache: FeatureCache, prompts: ClassPrompts, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """L_cls (S,) float32 of the (S, C) logits of one prompt of each of S classes and one random image of each of all C classes."""
    assert cache.features is not None  # checked by check_training
    assert prompts.pooled is not None
    images = _one_of_each(cache, generator)
    image_features = cache.features[images, _random_view(cache.features, images, generator)]  # (C, p)
    text_features = host.require_clip().project_text(prompts.pooled)  # (S, p)
    logits = class_logits(text_features, on_device(image_features, host.device), config.logit_scale)  # (S, C)
    return classification_loss(logits, on_device(prompts.classes, host.device), config.direction)


def _random_view(stored: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) int64: for each image, 0 for the image or 1 for its mirror image."""
    return torch.randint(0, stored.shape[1], (len(images),), generator=generator)


def _one_of_each(cache: FeatureCache, generator: torch.Generator) -> Tensor:
    """(C,) indices of one random image of every class, drawn in label order."""
    images, first, counts = cache.by_class
    # consecutive classes with equally many images are drawn together, with the same result as one by one
    draws = [torch.randint(0, count, (len(list(run)),), generator=generator) for count, run in groupby(counts)]
    return images[first + torch.cat(draws)]
