"""What is watched in a training, on the device and without waiting for it: losses, and whether numbers are finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["TERMS", "History", "LastFinite", "gradients"]

TERMS = ("loss", "reconstruction", "classification")


class History:
    """One row of losses a step. They stay on the device until somebody reads them, for which the host must wait."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, float]] = []
        """Those that have been read."""
        self.broken: int | None = None
        """The first step, from 0 on, that was not sound, as far as has been read."""
        self._unread: list[Tensor] = []

    def __len__(self) -> int:
        """Steps in all."""
        return len(self.rows) + len(self._unread)

    def add(self, terms: Mapping[str, Tensor], sound: Tensor) -> None:
        """Losses of a step, by name; a term that was not computed may be missing and will be nan.

        Args:
            terms: scalars.
            sound: scalar bool: whether the step's numbers are finite.
        """
        absent = torch.full_like(terms["loss"], math.nan)
        self._unread.append(torch.stack([*(terms.get(name, absent).detach() for name in TERMS), sound.float()]))

    def read(self) -> None:
        """Fetch what has come since the last time, in one piece."""
        if not self._unread:
            return
        fetched, self._unread = torch.stack(self._unread).tolist(), []
        for *losses, sound in fetched:
            if not sound and self.broken is None:
                self.broken = len(self.rows)
            self.rows.append(dict(zip(TERMS, losses, strict=True)))

    def columns(self) -> dict[str, tuple[float, ...]]:
        """Name of a loss -> its value at every step that has been read."""
        return {name: tuple(row[name] for row in self.rows) for name in TERMS}


class LastFinite:
    """The vectors as they were before numbers ceased to be finite. It is found out on the device, without waiting for it."""

    def __init__(self, vectors: Mapping[str, Tensor]):
        self._current = vectors
        self.vectors = {name: v.detach().clone() for name, v in vectors.items()}
        self._still = torch.ones((), dtype=torch.bool, device=next(iter(vectors.values())).device)

    def look(self, loss: Tensor) -> Tensor:
        """Between backward and the optimizer's step: whether loss, gradients and vectors, now and before, are finite."""
        good = torch.stack([self._still, *(v.detach().isfinite().all() for v in self._current.values())]).all()
        self.vectors = {name: torch.where(good, v.detach(), self.vectors[name]) for name, v in self._current.items()}
        found = [loss.detach(), *gradients(self._current)]
        self._still = torch.stack([good, *(value.isfinite().all() for value in found)]).all()
        return self._still


def gradients(vectors: Mapping[str, Tensor]) -> list[Tensor]:
    """Those there are: with the classification term alone, only one text encoder's vectors have any."""
    return [v.grad for v in vectors.values() if v.grad is not None]
