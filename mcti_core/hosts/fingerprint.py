"""A short hash of a model, by which files and trainings recognise it."""

from __future__ import annotations

import hashlib

from torch import Tensor, nn

__all__ = ["fingerprint", "sample"]


def fingerprint(module: nn.Module) -> str:
    """Hash of a model's shapes and of a sample of every weight, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}:".encode())
        digest.update(sample(tensor))
    return digest.hexdigest()[:16]


def sample(tensor: Tensor) -> bytes:
    """Shape, dtype, and at most a few hundred of the numbers."""
    flat = tensor.detach().flatten()
    few = flat[:: max(1, len(flat) // 256)].float().cpu().numpy()
    return f"{tuple(tensor.shape)}:{tensor.dtype}".encode() + few.tobytes()
