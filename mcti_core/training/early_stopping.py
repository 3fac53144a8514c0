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
        self.patience, self.best_loss, self.wait_count = patience, math.inf, 0

    def should_stop(self, loss: float) -> bool:
        """Count an evaluation; return whether ``patience`` of them in a row brought no improvement."""
        self.wait_count = 0 if loss < self.best_loss else self.wait_count + 1
        self.best_loss = min(self.best_loss, loss)
        return self.wait_count >= self.patience


class ValidationLoss:
    """The noise error on fixed images, noise levels and noises, which is comparable between steps.

    Args:
        active: (A,) int64, the classes in training.
        prompts: all templates, by ``host_templates``, of which the first is used.
        num_samples: number of images, each with its own noise level and noise.
        batch_size: images per pass of the denoiser.
        processes: each computes its share; all get the same error.
    """

    def __init__(
        self, host: Host, cache: FeatureCache, active: Tensor, prompts: Mapping[str, AnyPrompts], num_samples: int = 32, *,
        batch_size: int = 32, processes: DistributedContext = SINGLE_PROCESS,
    ):  # fmt: skip
        assert cache.latents is not None
        self.host, self.denoiser = host, host.require_denoiser()
        self.num_samples, self.processes = num_samples, processes
        generator = torch.Generator().manual_seed(0)
        images = next(ClassBalancedBatchSampler(cache.labels, active.tolist(), num_samples, generator))
        sigmas = stratified_sigmas(self.denoiser.sigmas.cpu(), num_samples, generator, host.logit_normal)
        latents = cache.latents[images, 0]
        noises = torch.randn(latents.shape, generator=generator)
        share = processes.share(num_samples)
        images, latents, noises, sigmas = (each[share] for each in (images, latents, noises, sigmas))
        classes, rows = torch.searchsorted(active, cache.labels[images]).unique(return_inverse=True)
        self.classes = classes.to(host.device)
        """(U,) rows of the vectors whose prompts are encoded."""
        self.prompts = {name: p.rows(torch.zeros_like(classes)) for name, p in prompts.items()}
        sizes = torch.tensor(latents.shape[-2:]).expand(len(images), 2) if cache.sizes is None else cache.sizes[images]
        masks = None if cache.masks is None else cache.masks[images, 0]
        self.batches = []
        """Rows of the prompts, and latents, noises, noise levels and masks on the device; one size of images per batch."""
        for (height, width), bucket in rows_by_size(sizes):
            for part in bucket.split(batch_size):
                x0, noise, sigma = (each[part].to(host.device) for each in (latents, noises, sigmas))
                mask = None if masks is None else masks[part][..., :height, :width].to(host.device)
                self.batches.append((rows[part], x0[..., :height, :width], noise[..., :height, :width], sigma, mask))

    @torch.no_grad()
    def error(self, vectors: Mapping[str, Tensor]) -> float:
        """The mean over the samples."""
        total = torch.zeros((), device=self.host.device)
        class_vectors = {name: v[self.classes] for name, v in vectors.items()}
        text = conditioning(self.host, self.prompts, class_vectors) if self.batches else {}
        for rows, latents, noise, sigma, mask in self.batches:
            text_rows = {name: features.rows(rows) for name, features in text.items()}
            estimate = self.denoiser.denoise(self.denoiser.noised(latents, noise, sigma), sigma, text_rows)
            total += noise_error(latents, estimate, sigma, mask).sum() / self.num_samples
        self.processes.all_reduce_sum([total])
        return float(total)
