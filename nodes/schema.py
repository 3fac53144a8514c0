"""Schemas of the nodes, with texts from ``locales/en``, and without fields that only newer ComfyUI versions have."""

from __future__ import annotations

import functools
import inspect
import json
import re
from pathlib import Path
from typing import Any

from comfy_api.latest import io

__all__ = ["advanced", "node_schema"]

_NEW_FIELDS = {"search_aliases"}
"""Fields of ``io.Schema`` since v0.16.0. ``essentials_category`` is not used: up to v0.33.0 the page shows only its own
list of nodes there, and would move these nodes out of the pack's place in the library."""


def node_schema(node_id: str, *, inputs: list[Any], outputs: list[Any], **fields: Any) -> io.Schema:
    """``io.Schema`` with the names and hover texts of ``locales/en``, without fields that this ComfyUI is too old for."""
    texts = _english()[node_id]
    for each in inputs:
        each.tooltip = texts["inputs"][each.id]["tooltip"]
    for place, each in enumerate(outputs):
        named = texts["outputs"][str(place)]
        each.display_name, each.tooltip = named["name"], named["tooltip"]
    fields |= {"display_name": texts["display_name"], "description": texts["description"], "category": "MC-TI"}
    unsupported = _NEW_FIELDS - set(inspect.signature(io.Schema).parameters)
    supported = {name: value for name, value in fields.items() if name not in unsupported}
    return io.Schema(node_id=node_id, inputs=inputs, outputs=outputs, **supported)


@functools.cache
def _english() -> dict[str, Any]:
    """Texts of each node, without the page's quotes around braces."""
    text = (Path(__file__).parents[1] / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")
    return json.loads(re.sub(r"\{'([{}@|]+)'\}", r"\1", text))


def advanced(each: Any) -> Any:
    """The same input as an advanced one, which the page hides until "Show advanced inputs" is pressed.

    The page supports this since before v0.3.64; the node API's parameter is newer, hence the dictionary.
    """
    each.extra_dict["advanced"] = True
    return each
