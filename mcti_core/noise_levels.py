"""Draw noise levels, in the same way for every family of diffusion models."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["spread_sigmas", "stratified_sigmas"]


def stratified_sigmas(
    sigmas: Tensor, count: int, generator: torch.Generator, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """(count,) noise levels, one from each of ``count`` equal slices of the time steps between the fractions low and high.

    They are in random order, so that the first n of them are spread out too.
    """
    slices = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    step = ((low + (high - low) * slices) * len(sigmas)).long().clamp(0, len(sigmas) - 1)
    return sigmas[step]


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
