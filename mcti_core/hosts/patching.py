"""Patch an object for the duration of a context."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

__all__ = ["patched"]


@contextmanager
def patched(entries: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    """Context in which ``entries``, such as ``vars(module)``, have this value under a name; restored afterwards."""
    missing, before = name not in entries, entries.get(name)
    entries[name] = value
    try:
        yield
    finally:
        if missing:
            entries.pop(name, None)
        else:
            entries[name] = before
