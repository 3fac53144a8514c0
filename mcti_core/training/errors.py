"""What ends a training early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import MCTIError

if TYPE_CHECKING:
    from ..tokens.token_set import TokenSet

__all__ = ["StopTraining", "TrainingError"]


class TrainingError(MCTIError):
    """Training went wrong; ``tokens`` holds the last finite ones."""

    def __init__(self, message: str, tokens: TokenSet):
        super().__init__(message)
        self.tokens = tokens


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raise it in ``on_step`` to stop: ``train`` then returns what was learned so far."""
