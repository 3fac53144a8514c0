"""A short hash of a model, by which files and trainings tell whether it is the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["fingerprint", "sample"]


def fingerprint(module: nn.Module, originals: Mapping[str, Tensor] | None = None) -> str:
    """Of a model's shapes and of a sample of every weight, 16 hexadecimal digits.

    Args:
        originals: weights, by name, that count in place of the module's own; for those that are patched just now.
    """
    digest = hashlib.sha256()
    for name, tensor in {**module.state_dict(), **(originals or {})}.items():
        digest.update(f"{name}:".encode())
        digest.update(sample(tensor))
    return digest.hexdigest()[:16]


def sample(tensor: Tensor) -> bytes:
    """Shape, number format, and a few hundred of the numbers at most."""
    flat = tensor.detach().flatten()
    few = flat[:: max(1, len(flat) // 256)].float().cpu().numpy()
    return f"{tuple(tensor.shape)}:{tensor.dtype}".encode() + few.tobytes()
