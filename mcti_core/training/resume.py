"""Whether a run is the one that was interrupted."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["describe_differences", "differences"]

_LONGEST = 40
"""Characters of a setting that are shown; of a longer one, only its name."""


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Names of the values that differ between two runs. Both list what they depend on: model, settings, files."""
    return [name for name in {**second, **first} if first.get(name) != second.get(name)]


def describe_differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """How two runs differ, for a person; empty if they do not."""
    return "; ".join(_told(name, then.get(name), now.get(name)) for name in differences(then, now))


def _told(name: str, then: str | None, now: str | None) -> str:
    """One difference."""
    if name == "model" or name.startswith("set of") or max(len(str(then)), len(str(now))) > _LONGEST:
        return f"different {name}"
    return f"{name} was {then}, is {now}"
