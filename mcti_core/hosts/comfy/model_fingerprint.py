"""A fingerprint of one of ComfyUI's models: of its weights as loaded, and of the patches on them.

It does not depend on the current state of the weights: in a file, on the CPU or on the device, cast or not, patched or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..fingerprint import sample

__all__ = ["lora_fingerprint", "model_fingerprint"]

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
    loaded |= getattr(patcher, "backup_buffers", {})  # of dynamic VRAM, absent in 0.3.64
    for path, module in patcher.model.named_modules():
        for name, weight in (*module._parameters.items(), *module._buffers.items()):
            if weight is None or name in module._non_persistent_buffers_set:
                continue
            full = f"{path}.{name}" if path else name
            if full == _UNINITIALISED_WEIGHT or path == _SAMPLING:
                continue
            # since v0.16.0, a dynamic loader keeps the file's dtype, and notes the one that a static loader casts to
            noted = getattr(module, f"{name}_comfy_model_dtype", None)
            as_loaded = noted if isinstance(noted, torch.dtype) else dtype
            yield from _plain_tensors(full, loaded.get(full, weight), as_loaded)


def _plain_tensors(name: str, weight: Any, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors of a quantised tensor; a few numbers of other tensors, cast."""
    if type(weight) in (Tensor, nn.Parameter):
        flat = weight.detach().flatten()
        few = flat[:: max(1, len(flat) // 256)]
        if few.is_meta:  # missing in the file; ComfyUI fills it with zeros
            few = torch.zeros(len(few), dtype=few.dtype)
        yield f"{name} {tuple(weight.shape)}", few if dtype is None else few.to(dtype)
        return
    inner, _ = weight.__tensor_flatten__()
    for part in inner:
        yield from _plain_tensors(f"{name}.{part}", getattr(weight, part), None)


def lora_fingerprint(patches: Mapping[str, Any], patches_uuid: object) -> str:
    """Equal for the same patches, such as LoRAs, at the same strengths in the same order.

    Args:
        patches: of a ``ModelPatcher``: weight name -> list of (strength, patch, strength of the model, offset, function).
        patches_uuid: ComfyUI's own id, random in each server process, for patches that do not consist only of numbers.

    Returns:
        16 hexadecimal digits or the id; "" without patches.
    """
    if not patches:
        return ""
    digest = hashlib.sha256()
    try:
        for name in sorted(patches):
            digest.update(repr(name).encode())
            for part in _bytes_of(patches[name]):
                digest.update(part)
    except TypeError:
        return str(patches_uuid)
    return digest.hexdigest()[:16]


def _bytes_of(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield sample(value)
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield f"{value!r};".encode()
    elif isinstance(value, (list, tuple)):
        yield f"{len(value)}(".encode()
        for inner in value:
            yield from _bytes_of(inner)
    elif isinstance(value, Mapping):
        yield from _bytes_of([part for name in sorted(value) for part in (name, value[name])])
    elif hasattr(value, "calculate_weight") and hasattr(value, "weights"):  # comfy.weight_adapter.WeightAdapterBase
        yield type(value).__name__.encode()
        yield from _bytes_of(value.weights)
    else:
        raise TypeError("a patch contains something that cannot be compared, such as a function")
