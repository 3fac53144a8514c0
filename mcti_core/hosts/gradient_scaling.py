"""Scale gradients through a denoiser in half precision.

The loss is a mean over all elements of a batch of latents, so each element's gradient is tiny: in float16, most gradients
in a UNet would underflow to zero. Inside the UNet they are therefore multiplied by a power of two, which changes no digit
of a number that does not underflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from .features import Conditioning, TextFeatures

__all__ = ["scale_gradients"]

_Features = TypeVar("_Features", TextFeatures, Conditioning)
_SCALE = 1024.0
"""On the pocket UNet with 48 x 48 latents and batches of 4, the gradients' error is 23% without it and 0.14% with it."""


def scale_gradients(
    text: Mapping[str, _Features], dtype: torch.dtype
) -> tuple[dict[str, _Features], Callable[[Tensor], Tensor]]:
    """Text features for a denoiser that computes in ``dtype``, and a function to apply to its output.

    Values do not change. If ``dtype`` is float16, gradients are scaled up between the output and the features, and have
    their true size elsewhere.
    """
    scale = _SCALE if dtype == torch.float16 else 1.0
    inner = {
        key: features.with_tensors({name: _scaled(t.float(), 1 / scale) for name, t in features.tensors().items()})
        for key, features in text.items()
    }
    return inner, lambda output: _scaled(output.float(), scale)


def _scaled(x: Tensor, factor: float) -> Tensor:
    """Identity whose gradient is multiplied by ``factor``."""
    return _ScaleGradient.apply(x, factor) if x.requires_grad and factor != 1 else x  # type: ignore[no-untyped-call]


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None
