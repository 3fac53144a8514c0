"""Whether a training goes on from a stored one, and from what of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .errors import ResumeError
from .progress_store import StoredTraining
from .tokens import TokenSet
from .train_state import TrainState, differences

__all__ = ["Start", "go_on"]

_LONGEST = 40
"""Characters of a setting that are shown; of a longer one, only its name."""


@dataclass(frozen=True)
class Start:
    """Where a training starts."""

    tokens: TokenSet
    state: TrainState | None = None
    """Where it goes on, if it does."""
    first: Mapping[str, Tensor] | None = None
    """For ``StoredTraining.first``."""


def go_on(
    stored: StoredTraining,
    tokens: TokenSet,
    identity: Callable[[TokenSet], Mapping[str, str]],
    path: Path,
    anyway: bool = False,
) -> Start:
    """Start where the stored training stood.

    Args:
        stored: the training that was broken off.
        tokens: what the training that is wanted would begin with.
        identity: its ``run_identity`` when it begins with given tokens.
        path: where the stored one comes from, for messages.
        anyway: from another training too. Then only its vectors are taken, class by class and by their labels; new classes
            begin as in ``tokens``, and steps and optimizer begin anew.

    Raises:
        ResumeError: it is of another training, and ``anyway`` is not asked for, or no vector of it fits.
    """
    first = tokens
    if stored.first is not None and stored.labels == tokens.labels and _fit(stored.first, tokens):
        first = tokens.with_vectors(stored.first)
    wanted = identity(first)
    differing = differences(stored.state.begun, wanted)
    if not differing:
        return Start(first, stored.state, stored.first)
    if not anyway:
        told = "; ".join(_told(name, stored.state.begun.get(name), wanted.get(name)) for name in differing)
        raise ResumeError(
            f"{path} is of another training ({told}); give it the same folder and options to go on, or take over what fits "
            "with '--resume anyway', or begin anew with --restart"
        )
    return _vectors_alone(stored, tokens, path)


def _vectors_alone(stored: StoredTraining, tokens: TokenSet, path: Path) -> Start:
    rows = {label: row for row, label in enumerate(stored.labels)}
    common = [(index, rows[label]) for index, label in enumerate(tokens.labels) if label in rows]
    fits = _fit(stored.state.vectors, tokens)
    whole = fits and all(len(v) == len(rows) for v in stored.state.vectors.values())  # and not some classes' alone
    if not common or not whole:
        raise ResumeError(
            f"nothing of {path} fits: it has {_described(stored.state.vectors)} for {', '.join(stored.labels)}; this training "
            f"is of {_described(tokens.vectors)} for {', '.join(tokens.labels)}; begin anew with --restart"
        )
    vectors = {name: v.clone() for name, v in tokens.vectors.items()}
    for name, learned in stored.state.vectors.items():
        for index, row in common:
            vectors[name][index] = learned[row].float()
    start = tokens.with_vectors(vectors)
    return Start(start, first=start.vectors)


def _fit(vectors: Mapping[str, Tensor], tokens: TokenSet) -> bool:
    shapes = {name: v.shape[1:] for name, v in tokens.vectors.items()}
    return {name: v.shape[1:] for name, v in vectors.items()} == shapes


def _described(vectors: Mapping[str, Tensor]) -> str:
    return " and ".join(f"{' x '.join(map(str, v.shape[1:]))} numbers ({name})" for name, v in vectors.items())


def _told(name: str, then: str | None, now: str | None) -> str:
    """One difference."""
    if name in ("model",) or name.startswith("set of") or max(len(str(then)), len(str(now))) > _LONGEST:
        return f"another {name}"
    return f"{name} was {then}, is {now}"
