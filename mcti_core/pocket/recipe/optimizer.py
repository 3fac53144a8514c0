"""Muon with AdamW, for weights of any shape; on a CPU it needs less time than AdamW alone, since it needs fewer steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["MuonWithAdamW"]


class MuonWithAdamW:
    """Momentum orthogonalised by Newton-Schulz for matrices and flattened kernels, AdamW for all other weights.

    ``torch.optim.Muon`` only supports matrices, but most weights of a UNet are convolutions.

    References:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """

    def __init__(
        self,
        named: Iterable[tuple[str, Parameter]],
        *,
        matrix: Callable[[str, Tensor], bool],
        lr_muon: float,
        lr_adamw: float,
        decay: float = 0.0,
    ):
        named = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self.matrices = [parameter for name, parameter in named if matrix(name, parameter)]
        matrix_ids = {id(parameter) for parameter in self.matrices}
        self.adamw = torch.optim.AdamW(
            [p for _, p in named if id(p) not in matrix_ids], lr=lr_adamw, weight_decay=0.0, betas=(0.9, 0.99)
        )
        self.momenta = [torch.zeros_like(parameter) for parameter in self.matrices]
        self.lr_muon, self.lr_adamw, self.decay = lr_muon, lr_adamw, decay

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self.adamw.state_dict(), "momenta": self.momenta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adamw.load_state_dict(state["adamw"])
        for momentum, stored in zip(self.momenta, state["momenta"], strict=True):
            momentum.copy_(stored)

    def zero_grad(self) -> None:
        self.adamw.zero_grad()
        for parameter in self.matrices:
            parameter.grad = None

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """Take one step with ``scale`` times the learning rates."""
        for group in self.adamw.param_groups:
            group["lr"] = self.lr_adamw * scale
        self.adamw.step()
        for parameter, momentum in zip(self.matrices, self.momenta, strict=True):
            if parameter.grad is None:
                continue
            momentum.mul_(0.95).add_(parameter.grad)
            update = _orthogonalised((parameter.grad + 0.95 * momentum).flatten(1))
            update *= max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            parameter.mul_(1 - self.lr_muon * scale * self.decay)
            parameter.add_(update.view_as(parameter), alpha=-self.lr_muon * scale)


def _orthogonalised(gradient: Tensor, steps: int = 4) -> Tensor:
    a, b, c = 3.4445, -4.7750, 2.0315  # the quintic iteration's coefficients
    x = gradient / (gradient.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
