"""A fingerprint of the patches on ComfyUI's MODEL or CLIP, such as LoRAs. ComfyUI's own ids are random in each server process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..fingerprint import sample

__all__ = ["lora_fingerprint"]


class _UnknownError(Exception):
    """A patch contains something that cannot be compared, such as a function."""


def lora_fingerprint(patches: Mapping[str, Any], patches_uuid: object) -> str:
    """Equal for the same patches at the same strengths in the same order.

    Args:
        patches: of a ``ModelPatcher``: weight name -> list of (strength, patch, strength of the model, offset, function).
        patches_uuid: ComfyUI's own id, for patches that do not consist only of numbers.

    Returns:
        16 hexadecimal digits or the id; "" without patches.
    """
    if not patches:
        return ""
    digest = hashlib.sha256()
    try:
        for name in sorted(patches):
            digest.update(repr(name).encode())
            for part in _parts(patches[name]):
                digest.update(part)
    except _UnknownError:
        return str(patches_uuid)
    return digest.hexdigest()[:16]


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield sample(value)
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield f"{value!r};".encode()
    elif isinstance(value, (list, tuple)):
        yield f"{len(value)}(".encode()
        for inner in value:
            yield from _parts(inner)
    elif isinstance(value, Mapping):
        yield from _parts([part for name in sorted(value) for part in (name, value[name])])
    elif hasattr(value, "calculate_weight") and hasattr(value, "weights"):  # comfy.weight_adapter.WeightAdapterBase
        yield type(value).__name__.encode()
        yield from _parts(value.weights)
    else:
        raise _UnknownError
