"""Metadata for model browsers: the keys of the Stability AI Model Metadata Standard.

References:
    https://github.com/Stability-AI/ModelSpec, version 1.0.0. Architecture ids as kohya's sd-scripts
    (library/sai_model_spec.py) and SwarmUI (T2IModelClassSorter.cs) write and read them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timezone

from safetensors.torch import save
from torch import Tensor

__all__ = ["embedding_metadata"]

_FAMILIES = {
    (("clip_l", 768),): ("stable-diffusion-v1", "512x512"),
    (("clip_h", 1024),): ("stable-diffusion-v2-768-v", "768x768"),  # v2-512 has the same text encoder
    (("clip_g", 1280), ("clip_l", 768)): ("stable-diffusion-xl-v1-base", "1024x1024"),
}
_IMPLEMENTATION = "https://github.com/Stability-AI/generative-models"


def embedding_metadata(
    vectors: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str, label: str
) -> dict[str, str]:
    """The standard's keys for one token; empty for text encoders that it does not name.

    Args:
        vectors: encoder name -> (V, d).
        tensors: the same tensors under the file's own keys, for the hash.
    """
    family = _FAMILIES.get(tuple(sorted((encoder, v.shape[-1]) for encoder, v in vectors.items())))
    if family is None:
        return {}
    content = save(dict(tensors))
    header = 8 + int.from_bytes(content[:8], "little")
    values = {
        "sai_model_spec": "1.0.0",
        "architecture": f"{family[0]}/textual-inversion",
        "implementation": _IMPLEMENTATION,
        "title": label.encode(errors="replace").decode(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "resolution": family[1],
        "trigger_phrase": name,
        "usage_hint": f"in ComfyUI write embedding:{name}",
        "hash_sha256": f"0x{hashlib.sha256(content[header:]).hexdigest()}",
    }
    return {f"modelspec.{key}": value for key, value in values.items()}
