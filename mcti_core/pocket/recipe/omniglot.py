"""Omniglot as pen masks: the public small background sets, one alphabet held out."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..glyphs import PENS, Styles, pen_masks, render, sample_styles

__all__ = ["HELD_OUT", "TRAIN_DRAWERS", "Glyphs", "held_out_images", "load_masks", "words_for"]

HELD_OUT = "Early_Aramaic"
"""The alphabet that no part of the pocket checkpoint is trained on."""
DRAWERS = 20
TRAIN_DRAWERS = 18
"""Drawers 19 and 20 of every character are kept for testing."""
TURNS = 4


def load_masks(archives: list[Path], cache: Path | None = None) -> tuple[list[tuple[str, str]], Tensor]:
    """All drawings of the archives as pen masks.

    Returns:
        (alphabet, character) of each character, and masks (characters, 20, pens, 72, 72) uint8.
    """
    if cache is not None and cache.exists():
        stored = torch.load(cache, weights_only=True)
        return [tuple(name) for name in stored["names"]], stored["masks"]
    drawings: dict[tuple[str, str, int], np.ndarray] = {}
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".png") and "__MACOSX" not in name:
                    _, alphabet, character, file = name.split("/")
                    pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L"), dtype=np.float32)
                    drawings[alphabet, character, int(file.split("_")[1][:2])] = 1 - pixels / 255
    names = sorted({key[:2] for key in drawings})
    lines = torch.from_numpy(
        np.stack([drawings[(*name, drawer)] for name in names for drawer in range(1, DRAWERS + 1)])
    )
    masks = pen_masks(lines).view(len(names), DRAWERS, len(PENS), *pen_masks(lines[:1]).shape[2:])
    if cache is not None:
        torch.save({"names": [list(name) for name in names], "masks": masks}, cache)
    return names, masks


def words_for(count: int, seed: int = 0) -> list[str]:
    """Pronounceable two-syllable words, one for each base class: "bako", "dimu", ..."""
    syllables = [consonant + vowel for consonant in "bdfgjklmnprstvz" for vowel in "aeiou"]
    shuffled = [syllables[i] for i in np.random.RandomState(seed).permutation(len(syllables))]
    half = int(np.ceil(count**0.5))
    return [first + second for first in shuffled[:half] for second in shuffled[-half:]][:count]


@dataclass(frozen=True)
class Glyphs:
    """The base classes: each character in each of four orientations is a class with a word of its own."""

    masks: Tensor
    """(characters, 20, pens, 72, 72) uint8."""

    @property
    def classes(self) -> int:
        return len(self.masks) * TURNS

    def batch(
        self, count: int, generator: torch.Generator | None = None, *, test: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Styles]:
        """images (B, 3, 64, 64), coverage (B, 1, 64, 64), class (B,), styles of B random drawings."""
        label = torch.randint(0, self.classes, (count,), generator=generator)
        images, coverage, styles = self.draw(label, generator, test=test)
        return images, coverage, label, styles

    def draw(
        self, label: Tensor, generator: torch.Generator | None = None, *, test: bool = False
    ) -> tuple[Tensor, Tensor, Styles]:
        """A random drawing of each class in ``label`` (B,), by drawers seen in training or by the others."""
        drawers = (TRAIN_DRAWERS, DRAWERS) if test else (0, TRAIN_DRAWERS)
        drawer = torch.randint(*drawers, label.shape, generator=generator)
        styles = sample_styles(len(label), generator)
        images, coverage = render(self.masks[label // TURNS, drawer, styles.pen], styles, label % TURNS)
        return images, coverage, styles


def held_out_images(masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One image of every drawing of the held-out characters, with coverage and labels."""
    characters, drawers = masks.shape[:2]
    styles = sample_styles(characters * drawers, generator)
    flat = masks.flatten(0, 1)[torch.arange(characters * drawers), styles.pen]
    images, coverage = render(flat, styles)
    return images, coverage, torch.arange(characters).repeat_interleave(drawers)


def nearest_mean_accuracy(features: Tensor, labels: Tensor, shots: int, draws: int = 5) -> float:
    """Accuracy of the class mean of ``shots`` random examples, averaged over draws: the figure that guides the recipe."""
    generator, hits = torch.Generator().manual_seed(3), []
    for _ in range(draws):
        order = torch.randperm(len(labels), generator=generator)
        support = torch.stack([order[labels[order] == label][:shots] for label in labels.unique()])
        query = torch.ones(len(labels), dtype=torch.bool)
        query[support.flatten()] = False
        means = F.normalize(features[support].mean(1), dim=1)
        hits.append(((features[query] @ means.T).argmax(1) == labels[query]).float().mean())
    return torch.stack(hits).mean().item()
