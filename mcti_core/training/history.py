"""Record losses on the device without waiting for it, and check that numbers are finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

__all__ = ["TERMS", "History", "gradients"]

TERMS = ("loss", "reconstruction", "classification", "gamma")


class History:
    """One row of losses per step, and the last vectors in training before a number was not finite.

    All values stay on the device until ``read``, which waits for it.
    """

    def __init__(self, vectors: Mapping[str, Tensor]):
        self.rows: list[Mapping[str, float]] = []
        """The rows that have been read."""
        self.first_nonfinite_step: int | None = None
        """The first step, from 0, with a number that is not finite, among those that have been read."""
        self.last_finite = {name: v.detach().clone() for name, v in vectors.items()}
        """The vectors before that step."""
        self._vectors = vectors
        self._all_finite = torch.ones((), dtype=torch.bool, device=next(iter(vectors.values())).device)
        self._unread: list[Tensor] = []

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.rows) + len(self._unread)

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Record a step's scalar terms, between its backward pass and the optimizer's step; missing ones are NaN."""
        finite = torch.stack([self._all_finite, _finite(self._vectors.values())]).all()
        self.last_finite = {n: torch.where(finite, v.detach(), self.last_finite[n]) for n, v in self._vectors.items()}
        self._all_finite = torch.stack([finite, _finite([terms["loss"], *gradients(self._vectors)])]).all()
        missing = torch.full_like(terms["loss"], math.nan)
        losses = [terms.get(name, missing).detach() for name in TERMS]
        self._unread.append(torch.stack([*losses, self._all_finite.float()]))

    def read(self) -> None:
        """Fetch new rows in one transfer, and check the current vectors."""
        if not self._unread:
            return
        table = torch.stack(self._unread)
        table[-1, -1] *= _finite(self._vectors.values())
        *losses, finite = table.T.tolist()
        if self.first_nonfinite_step is None and not all(finite):
            self.first_nonfinite_step = len(self.rows) + finite.index(0)
        rows = [dict(zip(TERMS, row, strict=True)) for row in zip(*losses, strict=True)]
        self.rows, self._unread = [*self.rows, *rows], []

    def columns(self) -> dict[str, tuple[float, ...]]:
        """Name of a loss -> its values at the steps that have been read."""
        return {name: tuple(row[name] for row in self.rows) for name in TERMS}


def gradients(vectors: Mapping[str, Tensor]) -> list[Tensor]:
    """The existing gradients; with the classification term alone, only one text encoder's vectors have any."""
    return [v.grad for v in vectors.values() if v.grad is not None]


def _finite(tensors: Iterable[Tensor]) -> Tensor:
    """Scalar bool, on the device."""
    return torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all()
