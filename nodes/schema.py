"""What newer hosts know about nodes and v0.3.64 does not: used where it exists, left out elsewhere."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import io

__all__ = ["advanced", "node_schema"]

_NEWER = {"search_aliases"}
"""Fields of ``io.Schema`` since v0.16.0. ``essentials_category`` is not among them: up to v0.33.0 the page shows there only its own
list of nodes, and would move ours from the pack's place in the library to the host's."""


def node_schema(**fields: Any) -> io.Schema:
    """``io.Schema(**fields)``, without the fields that only newer hosts have where this host is older."""
    lacking = _NEWER - set(inspect.signature(io.Schema).parameters)
    return io.Schema(**{name: value for name, value in fields.items() if name not in lacking})


def advanced(inputs: list[Any]) -> list[Any]:
    """The same inputs, whose widgets the page hides until "Show advanced inputs" is pressed.

    The page has known this since before v0.3.64; the parameter of the node API came later, hence the dictionary.
    """
    for each in inputs:
        each.extra_dict["advanced"] = True
    return inputs
