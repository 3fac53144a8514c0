"""Draw noise levels, in the same way for every family of diffusion models."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_steps", "spread_sigmas", "stratified_sigmas"]


def random_steps(levels: int, count: int, generator: torch.Generator, logit_normal: bool = False) -> Tensor:
    """(count,) int64 random time steps of so many: uniform, or from the logit-normal density of location 0 and scale 1.

    A flow model's time is 0 for the clean latent and 1 for noise, and its host's table of noise levels is already shifted.

    References:
        Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024, arXiv 2403.03206,
        section 3.1, eq. 19 (the density); section 5.3.2, eq. 23 (the shift).
    """
    if not logit_normal:
        return torch.randint(0, levels, (count,), generator=generator)
    return (torch.randn(count, generator=generator).sigmoid() * levels).long().clamp(max=levels - 1)


def stratified_sigmas(sigmas: Tensor, count: int, generator: torch.Generator, logit_normal: bool = False) -> Tensor:
    """(count,) noise levels, one from each of ``count`` equally probable slices of the time steps.

    They are in random order, so that the first n of them are spread out too. ``logit_normal`` as in ``random_steps``.
    """
    times = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    if logit_normal:
        times = torch.special.ndtri(times).sigmoid()
    return sigmas[(times * len(sigmas)).long().clamp(0, len(sigmas) - 1)]


def spread_sigmas(
    sigmas: Tensor, count: int, generator: torch.Generator, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """(count,) noise levels; for any n, the first n are spread evenly over the time steps between low and high.

    The time steps follow van der Corput's sequence 0, 1/2, 1/4, 3/4, 1/8, ... with one random shift: the first n are
    nearly one in each of n equal slices, and exactly so if n is a power of two.

    References:
        van der Corput, "Verteilungsfunktionen", 1935; Cranley and Patterson, "Randomization of number theoretic methods
        for multiple integration", SIAM Journal on Numerical Analysis 13(6), 1976 (the shift).
    """
    bits = max(1, (count - 1).bit_length())
    mirrored = [int(f"{index:0{bits}b}"[::-1], 2) for index in range(count)]
    shift = torch.rand(1, generator=generator, dtype=torch.double)
    places = (torch.tensor(mirrored, dtype=torch.double) / 2**bits + shift) % 1
    step = ((low + (high - low) * places) * len(sigmas)).long().clamp(0, len(sigmas) - 1)
    return sigmas[step]
