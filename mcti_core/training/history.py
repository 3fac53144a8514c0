"""What is watched in a training, on the device and without waiting for it: losses, and whether numbers are finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

__all__ = ["TERMS", "History", "gradients"]

TERMS = ("loss", "reconstruction", "classification", "gamma")


class History:
    """One row of losses a step, and the vectors as they were while all numbers were finite.

    Everything stays on the device until ``read``, for which the host must wait.

    Args:
        vectors: what is trained, by text encoder.
    """

    def __init__(self, vectors: Mapping[str, Tensor]):
        self.rows: list[Mapping[str, float]] = []
        """Those that have been read."""
        self.broken: int | None = None
        """The first step, from 0 on, with a number that was not finite, as far as has been read."""
        self.finite = {name: v.detach().clone() for name, v in vectors.items()}
        """The vectors as they last were before that step."""
        self._vectors = vectors
        self._sound = torch.ones((), dtype=torch.bool, device=next(iter(vectors.values())).device)
        self._unread: list[Tensor] = []

    def __len__(self) -> int:
        """Steps in all."""
        return len(self.rows) + len(self._unread)

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """A step's losses, between its backward and the optimizer's step.

        Args:
            terms: scalars by name, ``loss`` among them; what was not computed may be missing and will be nan. ``gamma`` is
                there where it follows the gradients.
        """
        good = torch.stack([self._sound, _finite(self._vectors.values())]).all()
        self.finite = {name: torch.where(good, v.detach(), self.finite[name]) for name, v in self._vectors.items()}
        self._sound = torch.stack([good, _finite([terms["loss"], *gradients(self._vectors)])]).all()
        absent = torch.full_like(terms["loss"], math.nan)
        losses = [terms.get(name, absent).detach() for name in TERMS]
        self._unread.append(torch.stack([*losses, self._sound.float()]))

    def read(self) -> None:
        """Fetch what has come since the last time, in one piece; the vectors are looked at as they are now."""
        if not self._unread:
            return
        fetched = torch.stack(self._unread)
        fetched[-1, -1] *= _finite(self._vectors.values())
        *losses, sound = fetched.T.tolist()
        if self.broken is None and not all(sound):
            self.broken = len(self.rows) + sound.index(0)
        read = [dict(zip(TERMS, row, strict=True)) for row in zip(*losses, strict=True)]
        self.rows, self._unread = [*self.rows, *read], []

    def columns(self) -> dict[str, tuple[float, ...]]:
        """Name of a loss -> its value at every step that has been read."""
        return {name: tuple(row[name] for row in self.rows) for name in TERMS}


def gradients(vectors: Mapping[str, Tensor]) -> list[Tensor]:
    """Those there are: with the classification term alone, only one text encoder's vectors have any."""
    return [v.grad for v in vectors.values() if v.grad is not None]


def _finite(tensors: Iterable[Tensor]) -> Tensor:
    """Scalar bool, on the device."""
    return torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all()
