"""Exceptions that end a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import MCTIError

if TYPE_CHECKING:
    from ..tokens.token_set import TokenSet

__all__ = ["StopTraining", "TrainingError"]


class TrainingError(MCTIError):
    """Training failed; ``tokens`` contains the last finite ones."""

    def __init__(self, message: str, tokens: TokenSet):
        super().__init__(message)
        self.tokens = tokens


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raise it in ``on_step`` to stop a training; ``train`` then returns the current tokens."""
