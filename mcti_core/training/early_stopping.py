"""Stop early, when the loss on fixed samples no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..data.buckets import rows_by_size
from ..data.feature_cache import FeatureCache
from ..data.samplers import ClassBalancedBatchSampler
from ..distributed import SINGLE_PROCESS, DistributedContext
from ..hosts.base import Host
from ..losses import noise_error
from ..noise_levels import stratified_sigmas
from ..prompts.splicing import AnyPrompts, conditioning

__all__ = ["EarlyStopping", "ValidationLoss"]


class EarlyStopping:
    """Counts evaluations without improvement."""

    def __init__(self, patience: int):
        self.patience, self.least, self.waited = patience, math.inf, 0

    def is_over(self, error: float) -> bool:
        improved = error < self.least
        self.least, self.waited = min(self.least, error), 0 if improved else self.waited + 1
        return self.waited >= self.patience


class ValidationLoss:
    """The noise error on fixed images, noise levels and noises, which is comparable between steps.

    Args:
        host, cache: those of the training.
        active: (A,) int64, the classes in training.
        prompts: all templates, by ``host_templates``, of which the first is used.
        num_samples: number of images, each with its own noise level and noise.
        at_once: images per pass of the denoiser.
        processes: each computes its share; all get the same error.
    """

    def __init__(
        self, host: Host, cache: FeatureCache, active: Tensor, prompts: Mapping[str, AnyPrompts], num_samples: int = 32, *,
        at_once: int = 32, processes: DistributedContext = SINGLE_PROCESS,
    ):  # fmt: skip
        assert cache.latents is not None
        generator = torch.Generator().manual_seed(0)
        images = next(ClassBalancedBatchSampler(cache.labels, active.tolist(), num_samples, generator))
        self.host, self.denoiser = host, host.require_denoiser()
        self.num_samples, self.processes = num_samples, processes
        latents = cache.latents[images, 0]
        sigma = stratified_sigmas(self.denoiser.sigmas.cpu(), num_samples, generator, host.logit_normal)
        drawn = (
            torch.searchsorted(active, cache.labels[images]),
            latents,
            torch.randn(latents.shape, generator=generator),
            sigma,
        )
        own = torch.arange(num_samples)[processes.share(num_samples)]
        drawn_classes, rows = drawn[0][own].unique(return_inverse=True)
        self.classes = drawn_classes.to(host.device)
        """(U,) rows of the vectors whose prompts are encoded."""
        drawn = (rows, *(each[own] for each in drawn[1:]))
        sizes = torch.tensor([latents.shape[-2:]] * len(own)) if cache.sizes is None else cache.sizes[images][own]
        masks = None if cache.masks is None else cache.masks[images, 0][own]
        self.parts = []
        """Rows of the prompts, and latents, noises, noise levels and masks on the device."""
        for (height, width), alike in rows_by_size(sizes.view(-1, 2)):
            for part in alike.split(at_once):
                clean, noise, level = (each[part].to(host.device) for each in drawn[1:])
                mask = None if masks is None else masks[part][..., :height, :width].to(host.device)
                self.parts.append((rows[part], clean[..., :height, :width], noise[..., :height, :width], level, mask))
        self.prompts = {name: p.rows(torch.zeros_like(drawn_classes)) for name, p in prompts.items()}

    @torch.no_grad()
    def error(self, vectors: Mapping[str, Tensor]) -> float:
        """The mean over the samples."""
        total = torch.zeros((), device=self.host.device)
        own_vectors = {name: v[self.classes] for name, v in vectors.items()}
        text = conditioning(self.host, self.prompts, own_vectors) if self.parts else {}
        for rows, latents, noise, sigma, mask in self.parts:
            own = {name: features.rows(rows) for name, features in text.items()}
            estimate = self.denoiser.denoise(self.denoiser.noised(latents, noise, sigma), sigma, own)
            total += noise_error(latents, estimate, sigma, mask).sum() / self.num_samples
        self.processes.all_reduce_sum([total])
        return float(total)
