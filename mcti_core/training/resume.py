"""Compare a run with an interrupted one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.feature_cache import FeatureCache
    from ..hosts.base import Host
    from ..tokens.token_set import TokenSet
    from .config import TrainConfig

__all__ = ["describe_differences", "differences", "run_identity"]

_FOR_MEMORY = ("micro_batch_size", "gradient_checkpointing")
"""Settings that change what fits into memory, not what is learned."""
_MAX_CHARACTERS = 40
"""Maximum number of characters of a value in a message; of longer ones, only the name is shown."""


def run_identity(
    host: Host, cache: FeatureCache, tokens: TokenSet, config: TrainConfig, active: Tensor | None = None
) -> dict[str, str]:
    """Everything that a training's result depends on, by name. A training can only continue one with the same identity.

    Args:
        active: (A,) int64, the classes in training; by default all.
    """
    classes = list(range(len(tokens))) if active is None else active.tolist()
    vectors = b"".join(v[classes].numpy().tobytes() for v in tokens.vectors.values())
    return {
        "model": host.fingerprint or host.name,
        "set of examples": cache.fingerprint,
        "set of first tokens": f"{classes} {hashlib.sha256(vectors).hexdigest()}",
        **{name: repr(value) for name, value in config.describe().items() if name not in _FOR_MEMORY},
    }


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Names of the values that differ between the identities of two runs: model, settings, files."""
    return [name for name in {**second, **first} if first.get(name) != second.get(name)]


def describe_differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The differences between two runs as a message; empty for none."""
    described = []
    for name in differences(then, now):
        before, after = str(then.get(name)), str(now.get(name))
        hidden = name == "model" or name.startswith("set of") or max(len(before), len(after)) > _MAX_CHARACTERS
        described.append(f"different {name}" if hidden else f"{name} was {before}, is {after}")
    return "; ".join(described)
