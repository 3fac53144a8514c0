"""Whether a run is the one that was interrupted, and if a training is not, what of the stored one it can begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import ResumeError
from ..tokens.normal_form import normal_form
from ..tokens.token_set import TokenSet
from .checkpoint import Checkpoint
from .state import TrainState, differences

__all__ = ["Start", "describe_differences", "resume_from"]

_LONGEST = 40
"""Characters of a setting that are shown; of a longer one, only its name."""


@dataclass(frozen=True)
class Start:
    """Where a training starts."""

    tokens: TokenSet
    state: TrainState | None = None
    """Where it goes on, if it does."""
    first: Mapping[str, Tensor] | None = None
    """For ``Checkpoint.first``."""


def resume_from(
    stored: Checkpoint,
    tokens: TokenSet,
    identity: Callable[[TokenSet], Mapping[str, str]],
    path: Path,
    anyway: bool = False,
) -> Start:
    """Start where the stored training stood.

    Args:
        stored: the training that was interrupted.
        tokens: what the training that is wanted would begin with.
        identity: its ``run_identity`` when it begins with given tokens.
        path: where the stored one comes from, for messages.
        anyway: from another training too. Then only its vectors are taken, class by class and by their labels; new classes
            begin as in ``tokens``, and steps and optimizer start over.

    Raises:
        ResumeError: it is of another training, and ``anyway`` is not asked for, or no vector of it fits.
    """
    first = tokens
    if stored.first is not None and stored.labels == tokens.labels and _fit(stored.first, tokens):
        first = tokens.with_vectors(stored.first)
    wanted = identity(first)
    told = describe_differences(stored.state.begun, wanted)
    if not told:
        return Start(first, stored.state, stored.first)
    if not anyway:
        raise ResumeError(
            f"{path} belongs to a different training ({told}); give the same folder and options to resume it, take over what "
            "fits with '--resume anyway', or start over with --restart"
        )
    return _vectors_alone(stored, tokens, path)


def describe_differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """How two runs differ, for a person; empty if they do not. Both say by name what they are of: model, settings, files."""
    return "; ".join(_told(name, then.get(name), now.get(name)) for name in differences(then, now))


def _vectors_alone(stored: Checkpoint, tokens: TokenSet, path: Path) -> Start:
    rows = {normal_form(label): row for row, label in enumerate(stored.labels)}
    common = [(i, rows[form]) for i, form in enumerate(map(normal_form, tokens.labels)) if form in rows]
    counts = {len(v) for v in stored.state.vectors.values() if v.ndim}
    if not common or not _fit(stored.state.vectors, tokens) or counts != {len(stored.labels)}:  # some classes' alone
        raise ResumeError(
            f"nothing in {path} fits: it has {_described(stored.state.vectors)} for {', '.join(stored.labels)}; this training "
            f"has {_described(tokens.vectors)} for {', '.join(tokens.labels)}; start over with --restart"
        )
    start = tokens.with_vectors(tokens.vectors)
    for name, learned in stored.state.vectors.items():
        for index, row in common:
            start.vectors[name][index] = learned[row].float()
    return Start(start, first=start.vectors)


def _fit(vectors: Mapping[str, Tensor], tokens: TokenSet) -> bool:
    shapes = {name: v.shape[1:] for name, v in tokens.vectors.items()}
    return {name: v.shape[1:] for name, v in vectors.items()} == shapes


def _described(vectors: Mapping[str, Tensor]) -> str:
    return " and ".join(f"{' x '.join(map(str, v.shape[1:]))} numbers ({name})" for name, v in vectors.items())


def _told(name: str, then: str | None, now: str | None) -> str:
    """One difference."""
    if name == "model" or name.startswith("set of") or max(len(str(then)), len(str(now))) > _LONGEST:
        return f"different {name}"
    return f"{name} was {then}, is {now}"
