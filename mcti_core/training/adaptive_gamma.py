"""Choose gamma from the gradients: the weight at which the two loss terms have gradients of a given ratio.

A constant gamma that suits one checkpoint rarely suits another, since the gradients of the terms differ by orders of
magnitude between models, and within one training.

References:
    Esser, Rombach, Ommer 2021, "Taming Transformers" (VQGAN), whose adversarial loss has such an adaptive weight.
    Chen et al. 2018, "GradNorm", arXiv 1711.02257.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from ..distributed import DistributedContext
from ..tokens.encoders import CLIP_FOR_CLASSIFYING

__all__ = ["AdaptiveGamma"]

_DECAY = 0.9
_FLOOR = 0.01
"""Lower bound of the classification term's average, relative to its maximum so far. Once the few examples are separated, this
gradient almost vanishes, and raising gamma a thousandfold to compensate gains nothing (docs/results.md)."""
_MIN_NORM = 1e-20
"""Lower bound of the classification term's norm, so that gamma stays finite without a gradient."""


class AdaptiveGamma:
    """gamma = ratio * average |gradient of L_ldm| / average |gradient of L_cls|, without waiting for the device.

    The gradients are those of the vectors that both terms depend on. The averages are exponential moving averages that
    include the current step; the second one is at least a hundredth of its maximum so far.

    ``ratio`` (above 0) is the wanted norm of gamma * the gradient of L_cls, relative to that of L_ldm.
    """

    def __init__(self, ratio: float, device: torch.device | str):
        self.ratio = ratio
        self.norms = torch.zeros(3, device=device)
        """(3,) float32: moving averages of the two norms, and the maximum of the second. Both start at 0, which cancels in the ratio."""

    def backward(
        self, terms: dict[str, Tensor], weight: float, vectors: Mapping[str, Parameter], processes: DistributedContext
    ) -> None:
        """Set the vectors' gradients to those of ``weight`` * reconstruction + gamma * classification.

        This takes one backward pass through the denoiser, and two through the text encoder. The one for the
        classification term comes first, so that the denoiser's pass frees the graph as usual.

        Args:
            terms: this process's shares of ``reconstruction`` and ``classification``, in one graph; replaced by the sums
                over all processes, with ``gamma`` and ``loss`` added.
        """
        parameters = list(vectors.values())
        gradients = torch.autograd.grad(terms["classification"], parameters, retain_graph=True, allow_unused=True)
        common = [index for index, gradient in enumerate(gradients) if gradient is not None]  # vectors of both terms
        classification = [gradient for gradient in gradients if gradient is not None]
        (weight * terms["reconstruction"]).backward(inputs=parameters)  # type: ignore[no-untyped-call]
        reconstruction = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        terms.update({name: term.detach() for name, term in terms.items()})
        processes.all_reduce_sum([*reconstruction, *classification, *terms.values()])
        norms = [_norm([reconstruction[index] for index in common]), _norm(classification)]
        averages = _DECAY * self.norms[:2] + (1 - _DECAY) * torch.stack(norms)
        maximum = torch.maximum(self.norms[2], averages[1])
        self.norms = torch.stack([*averages, maximum])
        gamma = self.ratio * averages[0] / torch.maximum(averages[1], _FLOOR * maximum).clamp(min=_MIN_NORM)
        if CLIP_FOR_CLASSIFYING in vectors:  # no vector is reached by both terms, so there is nothing to balance
            gamma = torch.ones_like(gamma)
        for parameter, gradient in zip(parameters, reconstruction, strict=True):
            parameter.grad = gradient
        for index, gradient in zip(common, classification, strict=True):
            parameters[index].grad = reconstruction[index] + gamma * gradient
        terms["gamma"] = gamma
        terms["loss"] = weight * terms["reconstruction"] + gamma * terms["classification"]


def _norm(gradients: list[Tensor]) -> Tensor:
    return torch.stack([gradient.float().norm() for gradient in gradients]).norm()
