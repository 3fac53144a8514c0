"""Class-balanced index batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["balanced_batches"]


def balanced_batches(labels: Tensor, classes: Sequence[int], size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of image indices in which every class comes equally often.

    Classes follow one another in ever new random orders, and so do the images of each class: none is drawn a second
    time before all have been drawn once.

    Args:
        labels: (N,) int64 class of each image.
        classes: which classes to draw.
        size: images a batch.
        generator: on the CPU.

    Yields:
        (size,) int64 indices.
    """
    members = {label: (labels == label).nonzero()[:, 0] for label in classes}
    queues = {label: _shuffled(index, generator) for label, index in members.items()}
    turn = _shuffled(torch.tensor(list(classes)), generator)
    while True:
        yield torch.stack([next(queues[int(next(turn))]) for _ in range(size)])


def _shuffled(items: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from items[torch.randperm(len(items), generator=generator)]
