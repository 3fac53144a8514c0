"""Compare a run with an interrupted one."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["describe_differences", "differences"]

_MAX_CHARACTERS = 40
"""Maximum number of characters of a value in a message; of longer ones, only the name is shown."""


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Names of the values that differ between the identities of two runs: model, settings, files."""
    return [name for name in {**second, **first} if first.get(name) != second.get(name)]


def describe_differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The differences between two runs as a message; empty for none."""
    return "; ".join(_describe(name, then.get(name), now.get(name)) for name in differences(then, now))


def _describe(name: str, then: str | None, now: str | None) -> str:
    if name == "model" or name.startswith("set of") or max(len(str(then)), len(str(now))) > _MAX_CHARACTERS:
        return f"different {name}"
    return f"{name} was {then}, is {now}"
