"""Class-balanced index batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["ClassBalancedBatchSampler"]


class ClassBalancedBatchSampler:
    """Endless batches of image indices with every class equally often.

    Classes are drawn in a new random order in each round, and so are the images of each class: none is drawn again before
    all have been drawn once.

    Args:
        labels: (N,) int64 class of each image.
        classes: the classes to draw.
        size: images per batch.
        generator: on the CPU.
    """

    def __init__(self, labels: Tensor, classes: Sequence[int], size: int, generator: torch.Generator):
        self.size, self.generator = size, generator
        self.members = {label: (labels == label).nonzero()[:, 0].tolist() for label in classes}
        self.classes = list(classes)
        self.turn: list[int] = []
        """Remaining classes of this round."""
        self.queues: dict[int, list[int]] = {label: [] for label in classes}
        """Remaining images of each class in its round."""

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """(size,) int64 indices."""
        labels = (self._draw(self.turn, self.classes) for _ in range(self.size))
        return torch.tensor([self._draw(self.queues[label], self.members[label]) for label in labels])

    def state(self) -> dict[str, list[int]]:
        """The remaining classes and images; together with the generator's state, they determine all later batches."""
        return {"turn": list(self.turn), **{str(label): list(queue) for label, queue in self.queues.items()}}

    def restore(self, state: Mapping[str, Sequence[int]]) -> None:
        """Continue from a result of ``state``. Raises: ValueError, KeyError: it is for other images or classes."""
        turn, queues = list(state["turn"]), {label: list(state[str(label)]) for label in self.queues}
        known = all(set(queue) <= set(self.members[label]) for label, queue in queues.items())
        if not known or not set(turn) <= set(self.classes):
            raise ValueError("its batches are of other images")
        self.turn, self.queues = turn, queues

    def _draw(self, queue: list[int], items: Sequence[int]) -> int:
        if not queue:
            queue.extend(items[i] for i in torch.randperm(len(items), generator=self.generator).tolist())
        return queue.pop(0)
