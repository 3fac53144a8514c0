"""The keys of a token set's file, and the checks that an untrusted file must pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import TokenError
from ..files.limits import MAX_NUMBER
from .token_set import Support, TokenSet

__all__ = ["FEATURES", "FORMAT", "LABELS", "NOT_A_SET", "VERSION", "check_format", "metadata_value", "parse_token_set"]

FORMAT, VERSION = "mcti-token-set", 1
FEATURES, LABELS = "support.features", "support.labels"
"""Keys of the tensors beside the vectors."""
NOT_A_SET = "not a token set; make one from embeddings with: mcti convert EMBEDDINGS --format set --output FILE"


def check_format(values: Mapping[str, str]) -> None:
    """Raise a ``TokenError`` for metadata of another kind of file or of a newer version."""
    if values.get("format") != json.dumps(FORMAT):
        raise TokenError(NOT_A_SET)
    if (version := metadata_value(values, "format_version", int)) > VERSION:
        raise TokenError(f"format version {version} is newer than {VERSION}, which this program knows; update it")


def parse_token_set(values: Mapping[str, str], tensors: Mapping[str, Tensor]) -> TokenSet:
    """Build a token set from metadata and tensors.

    Raises:
        TokenError: something is missing, has a wrong type or shape, or is not finite.
    """
    templates = metadata_value(values, "templates", list)
    if not templates:
        raise TokenError("the token set has no templates; it is damaged")
    tokens = TokenSet(
        labels=tuple(metadata_value(values, "labels", list)),
        vectors={name: _tensor(tensors, name, 3) for name in metadata_value(values, "encoders", list)},
        names=tuple(metadata_value(values, "names", list)),
        templates=tuple(templates),
        pooling=metadata_value(values, "pooling", str),
        base_model=metadata_value(values, "base_model", str),
        training=metadata_value(values, "training", dict),
    )
    return replace(tokens, support=_support(tensors, len(tokens)))


def metadata_value(values: Mapping[str, str], key: str, kind: type) -> Any:
    """A metadata value, parsed from JSON; lists contain strings. Raises: TokenError: missing or of another type."""
    try:
        value = json.loads(values[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise TokenError(f"the token set lacks {key!r}, or it is damaged; save or copy the file again") from error
    if not isinstance(value, kind) or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
        raise TokenError(f"the token set's {key!r} has the wrong type ({str(value)[:80]}); save or copy the file again")
    return value


def _tensor(tensors: Mapping[str, Tensor], key: str, dimensions: int, dtype: torch.dtype = torch.float32) -> Tensor:
    if key not in tensors:
        raise TokenError(f"the file contains no tensor {key!r}; there are: {', '.join(sorted(tensors)) or 'none'}")
    tensor = tensors[key]
    if tensor.ndim != dimensions or tensor.dtype != dtype or not tensor.numel():
        found = f"{tensor.dtype} {tuple(tensor.shape)}"
        raise TokenError(f"tensor {key!r} must be {dtype} of {dimensions} dimensions, not empty, got {found}")
    if not tensor.abs().max() <= MAX_NUMBER:
        raise TokenError(f"tensor {key!r} contains numbers beyond {MAX_NUMBER:,.0f} or not finite; it is damaged")
    return tensor


def _support(tensors: Mapping[str, Tensor], classes: int) -> Support | None:
    if FEATURES not in tensors:
        return None
    features, labels = _tensor(tensors, FEATURES, 2), _tensor(tensors, LABELS, 1, torch.int64)
    if len(features) != len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise TokenError("the examples' features and labels do not match each other or the classes")
    return Support(features, labels)
