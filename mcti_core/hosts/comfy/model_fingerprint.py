"""A fingerprint of one of the host's models: of its weights as they were loaded, and of the patches laid on them.

Where the host keeps the weights just now does not count: in a file, on the CPU or on the device, cast or not, patched or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..fingerprint import sample
from .lora_fingerprint import lora_fingerprint

__all__ = ["model_fingerprint"]

_NEVER_SET = "clip_l.transformer.text_projection.weight"
"""Checkpoints of SD 1.x and SDXL hold none, the host leaves what was in its memory, and nobody here asks for it."""
_SAMPLING = "model_sampling"
"""Its noise levels, which nodes such as ModelSamplingDiscrete replace while the MODEL is loaded."""


def model_fingerprint(patcher: Any, dtype: torch.dtype | None = None) -> str:
    """Equal for the same weights and patches, whichever of the host's loaders brought them.

    Args:
        patcher: a ``ModelPatcher``.
        dtype: the number format of weights for which the host's modules name none.

    Returns:
        16 hexadecimal digits, and with patches a hyphen and those of the patches.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(_weights(patcher, dtype), key=lambda item: item[0]):
        digest.update(f"{name}:".encode())
        digest.update(sample(weight))
    if hasattr(patcher.model, _SAMPLING):
        sampling = patcher.get_model_object(_SAMPLING)
        digest.update("/".join(kind.__name__ for kind in type(sampling).__mro__).encode())
        digest.update(sample(sampling.sigmas))
    return f"{digest.hexdigest()[:16]}-{lora_fingerprint(patcher.patches, patcher.patches_uuid)}"


def _weights(patcher: Any, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its name, in the number format that the model computes with or is stored in."""
    loaded = {name: backup.weight for name, backup in patcher.backup.items()}
    loaded |= getattr(patcher, "backup_buffers", {})
    for path, module in patcher.model.named_modules():
        for name, weight in (*module._parameters.items(), *module._buffers.items()):
            if weight is None or name in module._non_persistent_buffers_set:
                continue
            full = f"{path}.{name}" if path else name
            if full == _NEVER_SET or path == _SAMPLING:
                continue
            yield from _plain(full, loaded.get(full, weight), _format(module, name) or dtype)


def _format(module: nn.Module, name: str) -> torch.dtype | None:
    """What a static loader would have cast the weight to; a dynamic one leaves it as the file has it. Since v0.16.0."""
    found = getattr(module, f"{name}_comfy_model_dtype", None)
    return found if isinstance(found, torch.dtype) else None


def _plain(name: str, weight: Any, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """A quantised tensor as the plain ones that it is made of; of others a few numbers, cast."""
    if type(weight) in (Tensor, nn.Parameter):
        flat = weight.detach().flatten()
        few = flat[:: max(1, len(flat) // 256)]
        few = (
            torch.zeros(len(few), dtype=few.dtype) if few.is_meta else few
        )  # the file has none: the host makes zeros of it
        yield f"{name} {tuple(weight.shape)}", few if dtype is None else few.to(dtype)
        return
    inner, _ = weight.__tensor_flatten__()
    for part in inner:
        yield from _plain(f"{name}.{part}", getattr(weight, part), None)
