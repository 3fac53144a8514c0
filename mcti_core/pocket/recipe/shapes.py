"""The shapes that the pocket checkpoint is trained on, as pen masks: Omniglot's characters, and letters from fonts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..glyphs import Styles, pen_masks, render, sample_styles
from .letters import letter_lines
from .omniglot import HELD_OUT, omniglot_lines
from .strokes import random_bend

__all__ = ["TURNS", "Glyphs", "held_out_images", "load_shapes", "nearest_mean_accuracy"]

TURNS = 4
_TEST_SHARE = 0.1
"""Share of each character's drawings that are held out, the last ones (drawers 19 and 20 of Omniglot)."""
_HANDWRITTEN_SHARE = 0.6
"""Share of Omniglot's drawings in a batch; the others are from fonts."""


@dataclass(frozen=True)
class Glyphs:
    """The base classes: each character in each of four orientations."""

    masks: Tensor
    """(drawings, pens, 72, 72) uint8, grouped by character."""
    counts: Tensor
    """(characters,) int64 number of drawings of each character."""
    handwritten: int
    """Number of Omniglot's characters, which are the first ones; their classes have words."""

    @property
    def classes(self) -> int:
        return len(self.counts) * TURNS

    @property
    def classes_with_words(self) -> int:
        return self.handwritten * TURNS

    def batch(
        self, count: int, generator: torch.Generator | None = None, *, test: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Styles]:
        """Images (B, 3, 64, 64), coverage (B, 1, 64, 64), classes (B,) and styles of B random drawings.

        Test drawings are of the classes with words, without random bending.
        """
        label = torch.randint(0, self.classes_with_words, (count,), generator=generator)
        if not test and self.classes > self.classes_with_words:
            printed = torch.randint(self.classes_with_words, self.classes, (count,), generator=generator)
            by_hand = torch.rand(count, generator=generator) < _HANDWRITTEN_SHARE
            label = torch.where(by_hand, label, printed)
        images, coverage, styles = self.draw(label, generator, test=test)
        return images, coverage, label, styles

    def draw(
        self, label: Tensor, generator: torch.Generator | None = None, *, test: bool = False
    ) -> tuple[Tensor, Tensor, Styles]:
        """Render a random drawing of each class in ``label`` (B,), from the training or the held-out drawings."""
        character = label // TURNS
        count = self.counts[character]
        kept = (count * _TEST_SHARE).round().clamp(min=1).long()
        first, room = (count - kept, kept) if test else (torch.zeros_like(count), count - kept)
        drawing = first + (torch.rand(label.shape, generator=generator) * room).long()
        styles = sample_styles(len(label), generator)
        bend = None if test else random_bend(len(label), generator)
        start = self.counts.cumsum(0) - self.counts
        masks = self.masks[start[character] + drawing, styles.pen]
        images, coverage = render(masks, styles, label % TURNS, bend)
        return images, coverage, styles


def load_shapes(archives: list[Path], fonts: Path | None, cache: Path) -> tuple[Glyphs, Tensor]:
    """The base classes, and the held-out alphabet's masks (characters, 20, pens, 72, 72), cached in the file ``cache``."""
    if not cache.exists():
        names, lines = omniglot_lines(archives)
        held = torch.tensor([alphabet == HELD_OUT for alphabet, _ in names])
        drawings = [*lines[~held], *(letter_lines(fonts)[1] if fonts else [])]
        stored = {
            "masks": torch.cat([pen_masks(drawn) for drawn in drawings]),
            "counts": torch.tensor([len(drawn) for drawn in drawings]),
            "handwritten": int((~held).sum()),
            "held_out": torch.stack([pen_masks(drawn) for drawn in lines[held]]),
        }
        torch.save(stored, cache)
    stored = torch.load(cache, weights_only=True)
    return Glyphs(stored["masks"], stored["counts"], stored["handwritten"]), stored["held_out"]


def held_out_images(masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One image of each drawing of the held-out characters, with coverage and labels."""
    characters, drawers = masks.shape[:2]
    styles = sample_styles(characters * drawers, generator)
    flat = masks.flatten(0, 1)[torch.arange(characters * drawers), styles.pen]
    images, coverage = render(flat, styles)
    return images, coverage, torch.arange(characters).repeat_interleave(drawers)


def nearest_mean_accuracy(features: Tensor, labels: Tensor, shots: int, draws: int = 5) -> float:
    """Accuracy of class means of ``shots`` random examples, averaged over draws; the figure by which the recipe was tuned."""
    generator, hits = torch.Generator().manual_seed(3), []
    for _ in range(draws):
        order = torch.randperm(len(labels), generator=generator)
        support = torch.stack([order[labels[order] == label][:shots] for label in labels.unique()])
        query = torch.ones(len(labels), dtype=torch.bool)
        query[support.flatten()] = False
        means = F.normalize(features[support].mean(1), dim=1)
        hits.append(((features[query] @ means.T).argmax(1) == labels[query]).float().mean())
    return torch.stack(hits).mean().item()
