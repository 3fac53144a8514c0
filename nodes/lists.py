"""ComfyUI's lists: a node with ``is_input_list`` is called once with all values of each input, other nodes once per value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..mcti_core.errors import ConfigError
from .types import images_in

__all__ = ["each_image", "only"]


def only(name: str, values: Sequence[Any] | None) -> Any:
    """The single value of an input; None if it is not connected.

    Raises:
        ConfigError: the input is a list of several values.
    """
    if values is None:
        return None
    if len(values) != 1:
        raise ConfigError(f"{name} is a list of {len(values)}, and this node takes one; connect a node that gives one")
    return values[0]


def each_image(batches: Sequence[Tensor]) -> list[Tensor]:
    """ComfyUI's batches (B, H, W, C), of any sizes -> their images, each (3, H, W) float32 in [0, 1]."""
    return [image for batch in batches for image in images_in(batch)]
