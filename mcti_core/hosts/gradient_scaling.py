"""Gradients through a denoiser in half precision.

The loss is a mean over all elements of a batch of latents, so that each element's gradient is tiny: in float16 most of what
flows back through a UNet would be rounded to nothing. Inside the UNet it is therefore made larger by a power of two, which
changes no digit of a number that does not underflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .base import TextFeatures

__all__ = ["scale_gradients"]

_SCALE = 1024.0
"""On the pocket UNet with 48 x 48 latents and batches of 4, gradients are 23% off without it and 0.14% with it."""


def scale_gradients(
    text: Mapping[str, TextFeatures], dtype: torch.dtype
) -> tuple[dict[str, TextFeatures], Callable[[Tensor], Tensor]]:
    """Text features to be given to a denoiser that computes in ``dtype``, and what is to be done with its output.

    Numbers stay as they are. In backward, gradients are larger between the output and the features, if ``dtype`` is
    float16, and of their true size before and behind.
    """
    scale = _SCALE if dtype == torch.float16 else 1.0
    inner = {
        name: replace(
            features,
            context=_scaled(features.context.float(), 1 / scale),
            pooled=None if features.pooled is None else _scaled(features.pooled.float(), 1 / scale),
        )
        for name, features in text.items()
    }
    return inner, lambda output: _scaled(output.float(), scale)


def _scaled(x: Tensor, factor: float) -> Tensor:
    """``x`` itself; in backward its gradient is multiplied by ``factor``."""
    return _ScaleGradient.apply(x, factor) if x.requires_grad and factor != 1 else x  # type: ignore[no-untyped-call]


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None
