"""Class-balanced index batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["ClassBalancedBatchSampler"]


class ClassBalancedBatchSampler:
    """Endless batches of image indices in which every class comes equally often.

    Classes follow one another in ever new random orders, and so do the images of each class: none is drawn a second
    time before all have been drawn once.

    Args:
        labels: (N,) int64 class of each image.
        classes: which classes to draw.
        size: images a batch.
        generator: on the CPU.
    """

    def __init__(self, labels: Tensor, classes: Sequence[int], size: int, generator: torch.Generator):
        self.size, self.generator = size, generator
        self.members = {label: (labels == label).nonzero()[:, 0].tolist() for label in classes}
        self.classes = list(classes)
        self.turn: list[int] = []
        """Classes still to come in this round."""
        self.queues: dict[int, list[int]] = {label: [] for label in classes}
        """Images of each class still to come in its round."""

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """(size,) int64 indices."""
        return torch.tensor([self._image_of(self._draw(self.turn, self.classes)) for _ in range(self.size)])

    def state(self) -> dict[str, list[int]]:
        """What is still to come; with the generator's state, all that later batches depend on."""
        return {"turn": list(self.turn), **{str(label): list(queue) for label, queue in self.queues.items()}}

    def restore(self, state: Mapping[str, Sequence[int]]) -> None:
        """Go on from what ``state`` gave.

        Raises:
            ValueError, KeyError: it is of other images or classes.
        """
        turn, queues = list(state["turn"]), {label: list(state[str(label)]) for label in self.queues}
        if not set(turn) <= set(self.classes) or any(
            not set(q) <= set(self.members[label]) for label, q in queues.items()
        ):
            raise ValueError("its batches are of other images")
        self.turn, self.queues = turn, queues

    def _image_of(self, label: int) -> int:
        return self._draw(self.queues[label], self.members[label])

    def _draw(self, queue: list[int], items: Sequence[int]) -> int:
        if not queue:
            queue.extend(items[i] for i in torch.randperm(len(items), generator=self.generator).tolist())
        return queue.pop(0)
