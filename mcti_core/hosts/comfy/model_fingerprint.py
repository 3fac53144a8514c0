"""A fingerprint of one of ComfyUI's models: of its weights as loaded, and of the patches on them.

It does not depend on the current state of the weights: in a file, on the CPU or on the device, cast or not, patched or not.
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

_UNINITIALISED_WEIGHT = "clip_l.transformer.text_projection.weight"
"""A weight that is ignored: checkpoints of SD 1.x and SDXL do not contain it, ComfyUI leaves it uninitialised, and it is not used here."""
_SAMPLING = "model_sampling"
"""The noise levels, which nodes such as ModelSamplingDiscrete replace while the MODEL is loaded."""


def model_fingerprint(patcher: Any, dtype: torch.dtype | None = None) -> str:
    """Equal for the same weights and patches, with any of ComfyUI's loaders.

    Args:
        patcher: a ``ModelPatcher``.
        dtype: the dtype of weights for which ComfyUI's modules name none.

    Returns:
        16 hexadecimal digits; with patches, followed by a hyphen and the digits of the patches.
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
    """Every weight by name, in the dtype that the model computes with or is stored in."""
    loaded = {name: backup.weight for name, backup in patcher.backup.items()}
    loaded |= getattr(patcher, "backup_buffers", {})
    for path, module in patcher.model.named_modules():
        for name, weight in (*module._parameters.items(), *module._buffers.items()):
            if weight is None or name in module._non_persistent_buffers_set:
                continue
            full = f"{path}.{name}" if path else name
            if full == _UNINITIALISED_WEIGHT or path == _SAMPLING:
                continue
            yield from _plain(full, loaded.get(full, weight), _format(module, name) or dtype)


def _format(module: nn.Module, name: str) -> torch.dtype | None:
    """The dtype that a static loader casts the weight to; since v0.16.0, a dynamic loader keeps the file's dtype."""
    found = getattr(module, f"{name}_comfy_model_dtype", None)
    return found if isinstance(found, torch.dtype) else None


def _plain(name: str, weight: Any, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors of a quantised tensor; a few numbers of other tensors, cast."""
    if type(weight) in (Tensor, nn.Parameter):
        flat = weight.detach().flatten()
        few = flat[:: max(1, len(flat) // 256)]
        few = (
            torch.zeros(len(few), dtype=few.dtype) if few.is_meta else few
        )  # missing in the file; ComfyUI fills it with zeros
        yield f"{name} {tuple(weight.shape)}", few if dtype is None else few.to(dtype)
        return
    inner, _ = weight.__tensor_flatten__()
    for part in inner:
        yield from _plain(f"{name}.{part}", getattr(weight, part), None)
