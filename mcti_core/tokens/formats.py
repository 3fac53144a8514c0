"""Embedding files of other programs. docs/token-files.md lists the programs and their layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TokenError
from ..files.limits import MAX_NUMBER, MAX_WIDTH
from ..files.safe_load import is_safetensors, read_safetensors, read_torch, refuse_large
from .embedding_cards import CARD_SUFFIXES, read_card
from .encoders import WIDTHS, describe_widths, encoder_named, encoder_of_width

__all__ = ["EMBEDDING", "SUFFIXES", "Embedding", "read_embedding"]

SUFFIXES = (".safetensors", ".pt", ".bin")
EMBEDDING = json.dumps("mcti-embedding")
"""Value of ``format`` in the metadata of files that MC-TI writes."""

_SINGLE_ENCODER_KEYS = ("emb_params", "emp_params")
"""Keys of a token of one text encoder: of ComfyUI, A1111, InvokeAI and kohya, and of OneTrainer."""
_MAX_VECTORS = 75
"""Maximum number of vectors; a prompt has no room for more."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SUPPORTED_KEYS = (
    "supported are 'emb_params' and text encoders by ComfyUI's names, such as 'clip_l', 't5xxl' and 'qwen3_4b' (ComfyUI, kohya), 't5', 'gemma' and "
    "'emp_params' (OneTrainer), 'string_to_param' (A1111, InvokeAI), and a single tensor, bare or under its token (diffusers)"
)


@dataclass(frozen=True)
class Embedding:
    """The content of one file."""

    vectors: Mapping[str, Tensor]
    """Encoder name -> (V, d) float32, with the same V for all."""
    token: str = ""
    """The token's name in the file."""
    base_model: str = ""
    """The model that it was trained on, according to the file."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata of a file that MC-TI wrote; empty for other programs' files."""


def read_embedding(path: str | Path) -> Embedding:
    """Read one token of any supported program: safetensors, ``.pt`` and ``.bin`` without code, images with an embedding.

    Raises:
        TokenError: the file is missing, damaged or too large, contains code, has an unknown layout, or its vectors have a
            wrong shape, type or number, or are not finite.
    """
    path = Path(path)
    if is_safetensors(path) or path.suffix.lower() == ".safetensors":
        refuse_large(path)
        metadata, tensors = read_safetensors(path)
        return _of_mcti(metadata, tensors) if metadata.get("format") == EMBEDDING else _detect_layout(tensors)
    return _detect_layout(read_card(path) if path.suffix.lower() in CARD_SUFFIXES else read_torch(path))


def _of_mcti(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Embedding:
    """A file of MC-TI, of any width: the metadata names its encoders."""
    try:
        encoders = json.loads(metadata["encoders"])
    except (KeyError, ValueError, RecursionError) as error:
        raise TokenError("its 'encoders' are missing or damaged; save or copy the file again") from error
    if not isinstance(encoders, list) or not all(isinstance(name, str) for name in encoders):
        raise TokenError("its 'encoders' have the wrong type; save or copy the file again")
    keyed: Mapping[str, Tensor] = {encoder_named(key) or key: tensor for key, tensor in tensors.items()}
    if len(encoders) == len(tensors) == 1:
        keyed = dict(zip(encoders, tensors.values(), strict=True))
    if set(keyed) != set(encoders) or len(keyed) < len(tensors):
        raise TokenError(f"it contains {_listed(tensors)} instead of {_listed(encoders)}; save or copy the file again")
    return Embedding(_equal({name: _checked(keyed[name], name) for name in encoders}), metadata=metadata)


def _detect_layout(content: Any) -> Embedding:
    if isinstance(content, Tensor):
        return Embedding(_by_width(content, "the tensor"))
    if not isinstance(content, dict):
        raise TokenError(f"it contains a {type(content).__name__}; {_SUPPORTED_KEYS}")
    if "string_to_param" in content:
        return _of_a1111(content)
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor) and isinstance(key, str)}
    tensors = {key: value for key, value in tensors.items() if value.ndim} or tensors  # beside numbers, such as a step
    if any(key.startswith("bundle_emb.") for key in tensors):
        raise TokenError("it is a LoRA with embeddings inside; take the embeddings out, one file each")
    if any(key.endswith("_out") for key in tensors):
        what = "OneTrainer's output embedding, which is applied after the text encoder, not before it"
        raise TokenError(f"it contains {_listed(tensors)}: {what}; train it as an ordinary embedding")
    if tensors and all(encoder_named(key) for key in tensors):
        return Embedding(_by_encoder(tensors))
    if len(tensors) == 1:
        ((key, tensor),) = tensors.items()
        return Embedding(_by_width(tensor, _named(key)), "" if key in _SINGLE_ENCODER_KEYS else key)
    raise TokenError(f"it contains {_listed(content)}; {_SUPPORTED_KEYS}")


def _of_a1111(content: Mapping[Any, Any]) -> Embedding:
    """``{"string_to_param": {"*": (V, d)}, "name": ..., "sd_checkpoint_name": ...}``, the first layout of all; for SDXL ``*`` is a dict."""
    tokens = content["string_to_param"]
    if isinstance(tokens, torch.nn.Module):  # a ParameterDict, read without calling its methods
        tokens = vars(tokens).get("_parameters")
    if not isinstance(tokens, dict) or len(tokens) != 1:
        count = len(tokens) if isinstance(tokens, dict) else "no"
        raise TokenError(f"its 'string_to_param' contains {count} tokens; only files with one token are supported")
    ((key, tensor),) = tokens.items()
    name, base = (value if isinstance(value := content.get(key), str) else "" for key in ("name", "sd_checkpoint_name"))
    if isinstance(tensor, dict):
        if not tensor or not all(isinstance(encoder, str) and encoder_named(encoder) for encoder in tensor):
            raise TokenError(f"its 'string_to_param' contains {_listed(tensor)}; supported are {', '.join(WIDTHS)}")
        return Embedding(_by_encoder(tensor), name, base)
    return Embedding(_by_width(tensor, f"'string_to_param' {_named(key)}"), name, base)


def _by_encoder(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Vectors of a token whose keys name its encoders, in the order of ``WIDTHS``; the keys are ``encoder_named``'s."""
    keys = {encoder_named(key): key for key in tensors}
    if len(keys) < len(tensors):
        raise TokenError(f"it contains {_listed(tensors)}, two of which name the same text encoder; remove one")
    vectors = _equal({name: _checked(tensors[keys[name]], name) for name in WIDTHS if name in keys})
    for name, rows in vectors.items():
        if rows.shape[1] not in WIDTHS[name]:
            raise TokenError(f"its {name!r} vectors are {rows.shape[1]} wide; supported are {describe_widths(name)}")
    return vectors


def _by_width(tensor: Any, what: str) -> dict[str, Tensor]:
    """The encoder of a token whose keys do not name one, by its width."""
    vectors = _checked(tensor, what)
    return {encoder_of_width(vectors.shape[1]): vectors}


def _checked(tensor: Any, what: str) -> Tensor:
    """(V, d) or (d,) of any floating type -> a (V, d) float32 copy. The shape is checked before any number is read."""
    if not isinstance(tensor, Tensor):
        raise TokenError(f"{what} is a {type(tensor).__name__} and not a tensor")
    if tensor.dtype not in _FLOATS or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise TokenError(f"{what} is a tensor of {tensor.dtype}; embeddings are plain floating point numbers")
    if tensor.ndim not in (1, 2) or not tensor.numel():
        raise TokenError(f"{what} has the shape {tuple(tensor.shape)}; supported are (vectors, width) and (width,)")
    if tensor.shape[-1] > MAX_WIDTH:
        raise TokenError(f"{what} is {tensor.shape[-1]:,} wide; supported are at most {MAX_WIDTH:,}")
    rows = tensor.detach() if tensor.ndim == 2 else tensor.detach()[None]
    if len(rows) > _MAX_VECTORS:
        raise TokenError(f"{what} has {len(rows)} vectors; a prompt has room for {_MAX_VECTORS}")
    stored = rows.untyped_storage().nbytes() // rows.element_size()
    if rows.numel() > stored:  # a view can repeat one number any number of times
        raise TokenError(f"{what} claims {rows.numel():,} numbers, and does not store as many; the file is damaged")
    vectors = rows.float().contiguous().clone()
    if not vectors.abs().max() <= MAX_NUMBER:
        raise TokenError(f"{what} contains numbers beyond {MAX_NUMBER:,.0f} or not finite; the embedding is broken")
    return vectors


def _equal(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    counts = {name: len(rows) for name, rows in vectors.items()}
    if len(set(counts.values())) != 1:
        raise TokenError(f"its encoders have different numbers of vectors: {counts}")
    return vectors


def _listed(keys: Any) -> str:
    shown = [_named(key) for key in list(keys)[:6]]
    return ", ".join(shown + ["..."] * (len(keys) > 6)) or "nothing"


def _named(key: Any) -> str:
    """A key as text; keys other than strings can be nested to any depth."""
    return repr(key[:40]) if isinstance(key, str) else f"a {type(key).__name__}"
