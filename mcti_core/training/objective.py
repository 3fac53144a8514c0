"""The two loss terms of one step, for random prompts, images, noise levels and noises.

The formulas are in ``losses.py`` and ``noise_levels.py``.
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
    pooled: Mapping[str, Tensor]
    """The encoder of the CLIP space, if there is one -> (S, d) hidden states at the position of the text feature."""
    conditioning: Tensor
    """(U,) int64, ascending: the classes in ``text``."""
    text: Mapping[str, Features]
    """Conditioning from their prompts, U rows; empty if U is 0."""

    def context(self, labels: Tensor) -> dict[str, Features]:
        """Labels (B,), each in ``conditioning`` -> features of their prompts, B rows."""
        row = torch.searchsorted(self.conditioning, labels)
        return {name: features.rows(row) for name, features in self.text.items()}


def encode_classes(
    host: Host,
    prompts: Mapping[str, AnyPrompts],
    vectors: Mapping[str, Tensor],
    active: Tensor,
    chosen: Tensor,
    conditioning: Tensor,
    pooling: str,
    generator: torch.Generator,
    at_once: int = 0,
) -> ClassPrompts:
    """Encode the chosen classes, each in a random template, which is the same for all encoders.

    The denoiser needs the features of all encoders, including padding. Prompts for the classification term alone are
    encoded by the CLIP space's encoder only (usually the smaller one of SDXL's two), and without padding: usually
    much shorter, with the same text feature.

    Args:
        prompts: all K templates, by ``host_templates``.
        vectors: encoder -> (A, V, d) vectors of the active classes.
        active: (A,) int64, ascending.
        chosen: (S,) int64, ascending; a subset of the active classes.
        conditioning: (U,) int64, ascending; the subset of the chosen classes whose prompts condition the denoiser.
        pooling: ``"eot"`` or ``"token"``.
        at_once: maximum number of prompts whose graph is in memory, by re-encoding them in the backward pass; 0 for all.
    """
    templates = len(next(iter(prompts.values())))
    row = torch.searchsorted(active, chosen)
    # drawn for all active classes, so that later draws do not depend on the choice of classes
    template = torch.randint(0, templates, (len(active),), generator=generator)[row]
    whole = torch.isin(chosen, conditioning)
    text: dict[str, Features] = {}
    pooled: dict[str, list[Tensor]] = {} if host.clip is None else {host.clip.encoder: []}
    for part, conditions in ((whole, True), (~whole, False)):
        if not part.any():
            continue
        read = host.conditioned_by if conditions else ()
        picked = {name: prompts[name].rows(template[part]) for name in dict.fromkeys((*read, *pooled))}
        picked = {n: p.without_padding() if isinstance(p, Prompts) and n not in read else p for n, p in picked.items()}
        own = {name: v[on_device(row[part], v.device)] for name, v in vectors.items()}
        features = encode_in_parts(host, picked, own, at_once)
        text |= {name: features[name].conditioning() for name in read}
        for name, rows in pooled.items():
            of_clip, laid_out = features[name], picked[name]
            assert isinstance(of_clip, TextFeatures)
            assert isinstance(laid_out, Prompts)
            rows.append(hidden_at(of_clip.hidden, laid_out.pooling_position(pooling)))
    order = torch.cat([whole.nonzero(), (~whole).nonzero()])[:, 0].argsort()
    in_order = {name: torch.cat(parts)[on_device(order, parts[0].device)] for name, parts in pooled.items() if parts}
    return ClassPrompts(chosen, in_order, conditioning, text)


def encode_in_parts(
    host: Host, prompts: Mapping[str, AnyPrompts], vectors: Mapping[str, Tensor], at_once: int
) -> dict[str, Features]:
    """``encode_prompts`` with one row of vectors per prompt, in checkpointed parts of ``at_once`` rows."""
    rows = torch.arange(len(next(iter(vectors.values()))))
    if not 0 < at_once < len(rows):
        return encode_prompts(host, prompts, vectors)
    parts = [
        checkpoint(
            encode_prompts,
            host,
            {name: p.rows(part) for name, p in prompts.items()},
            {name: v[part[0] : part[-1] + 1] for name, v in vectors.items()},
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for part in rows.split(at_once)
    ]
    return joined(parts)


def reconstruction_loss(
    host: Host, cache: FeatureCache, images: Tensor, text: Mapping[str, Features], generator: torch.Generator, *,
    micro_batch_size: int = 0, share: slice = slice(None),
) -> Tensor:  # fmt: skip
    """L_ldm: the weighted noise error of the images' latents with their classes' prompts, at random time steps of the family's density.

    Args:
        images: (B,) int64 indices into the cache; of each, the image or its mirror image is drawn.
        text: features of the prompts of the share's images.
        micro_batch_size: images per pass of the denoiser; 0 for all.
        share: this process's rows of the batch, at least one. Random draws are for the whole batch.

    Returns:
        (rows of the share,) float32.
    """
    denoiser, view = host.require_denoiser(), _random_view(cache.latents, images, generator)
    assert cache.latents is not None  # checked by check_training
    latents = cache.latents[images, view]
    step = random_steps(len(denoiser.sigmas), len(images), generator, host.logit_normal)
    noise = torch.randn(latents.shape, generator=generator)
    latents, step, noise = (on_device(drawn[share], host.device) for drawn in (latents, step, noise))
    sigma = denoiser.sigmas[step]
    mask = None if cache.masks is None else on_device(cache.masks[images, view][share], host.device)
    if cache.sizes is None:
        return _noise_errors(denoiser, latents, noise, sigma, mask, text, micro_batch_size)
    parts, order = [], []
    for (height, width), rows in rows_by_size(cache.sizes[images][share]):
        order.append(rows)
        here = on_device(rows, host.device)
        clean, eps = (each[here][..., :height, :width] for each in (latents, noise))
        weights = None if mask is None else mask[here][..., :height, :width]
        own = {name: features.rows(rows) for name, features in text.items()}
        parts.append(_noise_errors(denoiser, clean, eps, sigma[here], weights, own, micro_batch_size))
    return torch.cat(parts)[on_device(torch.cat(order).argsort(), host.device)]


def _noise_errors(
    denoiser: Denoiser, latents: Tensor, noise: Tensor, sigma: Tensor, mask: Tensor | None,
    text: Mapping[str, Features], micro_batch_size: int,
) -> Tensor:  # fmt: skip
    """(B,) losses of images of one size."""

    def losses(part: slice, text: Mapping[str, Features]) -> Tensor:
        clean, level = latents[part], sigma[part]
        estimate = denoiser.denoise(denoiser.noised(clean, noise[part], level), level, text)
        error = noise_error(clean, estimate, level, None if mask is None else mask[part])
        return denoiser.weight(level) * error

    if 0 < micro_batch_size < len(latents):
        return in_micro_batches(losses, text, micro_batch_size)
    return losses(slice(None), text)


def batch_classification_loss(
    host: Host, cache: FeatureCache, prompts: ClassPrompts, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """L_cls (S,) float32: one prompt of each of S classes against one random image of every class."""
    clip = host.require_clip()
    assert cache.features is not None  # checked by check_training
    images = _one_of_each(cache, generator)
    features = on_device(cache.features[images, _random_view(cache.features, images, generator)], host.device)
    logits = class_logits(clip.project_text(prompts.pooled[clip.encoder]), features, config.logit_scale)  # (S, C)
    return classification_loss(logits, on_device(prompts.classes, host.device), config.direction)


def _random_view(stored: Tensor | None, images: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) int64: for each image, 0 for the image or 1 for its mirror image."""
    assert stored is not None  # checked by check_training
    return torch.randint(0, stored.shape[1], (len(images),), generator=generator)


def _one_of_each(cache: FeatureCache, generator: torch.Generator) -> Tensor:
    """(C,) indices of one random image of every class, drawn in label order."""
    images, first, counts = cache.by_class
    # consecutive classes with equally many images are drawn together, with the same result as one by one
    alike = [torch.randint(0, count, (len(list(run)),), generator=generator) for count, run in groupby(counts)]
    return images[first + torch.cat(alike)]
