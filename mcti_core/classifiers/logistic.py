"""Multinomial logistic regression in plain torch: ComfyUI has no scikit-learn, and may have disabled autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LogisticRegression"]

_MAX_STEPS, _TOLERANCE = 1000, 1e-5
_INTERCEPT_PENALTY = 1e-6
"""Penalty of the intercepts: nearly none, but it makes the minimum unique."""


class LogisticRegression:
    """Minimise ``inverse_penalty`` * summed cross-entropy + half the squared weights, as scikit-learn's class of this name.

    Newton steps use a constant upper bound of the Hessian, which is factorised once, with Nesterov momentum and restarts.

    Args:
        features, labels: (N, p) floats, and (N,) int64 below ``classes``.
        inverse_penalty: scikit-learn's ``C``.

    References:
        Boehning 1992, "Multinomial logistic regression algorithm", for the bound.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int, inverse_penalty: float = 10.0):
        with torch.no_grad():
            x, target = _with_intercept(features), F.one_hot(labels, classes).double()
            penalty = torch.ones(x.shape[1], dtype=torch.double)
            penalty[-1] = _INTERCEPT_PENALTY
            bound = torch.linalg.cholesky(0.5 * inverse_penalty * x.T @ x + penalty.diag())
            weights = lookahead = torch.zeros(x.shape[1], classes, dtype=torch.double)
            since = 0  # steps since the last restart
            for _ in range(_MAX_STEPS):
                gradient = inverse_penalty * x.T @ ((x @ lookahead).softmax(1) - target) + penalty[:, None] * lookahead
                new_weights = lookahead - torch.cholesky_solve(gradient, bound)
                step = new_weights - weights
                since = 0 if (gradient * step).sum() > 0 else since + 1
                lookahead, weights = new_weights + since / (since + 3) * step, new_weights
                if float(step.abs().max()) < _TOLERANCE:
                    break
            self._weights = weights

    def logits(self, features: Tensor) -> Tensor:
        """(B, p) -> (B, C) float32."""
        return (_with_intercept(features) @ self._weights).float()


def _with_intercept(features: Tensor) -> Tensor:
    return torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.double)], dim=1)
