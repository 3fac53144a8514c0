"""When to stop: a fixed probe that no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .batches import BalancedBatches
from .diffusion import noise_error, stratified_sigmas
from .features import FeatureCache
from .hosts.base import Host
from .prompts import Prompts, encode_prompts

__all__ = ["Best", "Probe"]


class Best:
    """Counts looks without improvement."""

    def __init__(self, patience: int):
        self.patience, self.least, self.waited = patience, math.inf, 0

    def is_over(self, error: float) -> bool:
        improved = error < self.least
        self.least, self.waited = min(self.least, error), 0 if improved else self.waited + 1
        return self.waited >= self.patience


class Probe:
    """The noise error of fixed (image, noise level, noise): comparable from one look to the next."""

    def __init__(
        self, host: Host, cache: FeatureCache, active: Tensor, prompts: Mapping[str, Prompts], samples: int = 32
    ):
        assert cache.latents is not None
        generator = torch.Generator().manual_seed(0)
        images = next(BalancedBatches(cache.labels, active.tolist(), samples, generator))
        self.host, self.denoiser = host, host.need_denoiser()
        self.rows = torch.searchsorted(active, cache.labels[images])
        self.latents = cache.latents[images, 0].to(host.device)
        self.sigma = stratified_sigmas(self.denoiser.sigmas.cpu(), samples, generator).to(host.device)
        self.noise = torch.randn(self.latents.shape, generator=generator).to(host.device)
        self.prompts = {name: p.rows(torch.zeros(len(active), dtype=torch.long)) for name, p in prompts.items()}

    @torch.no_grad()
    def error(self, vectors: Mapping[str, Tensor]) -> float:
        text = encode_prompts(self.host, self.prompts, vectors)
        text = {name: features.rows(self.rows.to(self.host.device)) for name, features in text.items()}
        estimate = self.denoiser.denoise(self.denoiser.noised(self.latents, self.noise, self.sigma), self.sigma, text)
        return float(noise_error(self.latents, estimate, self.sigma).mean())
