"""Omniglot's small background sets, with one alphabet held out."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["DRAWERS", "HELD_OUT", "omniglot_lines", "words_for"]

HELD_OUT = "Early_Aramaic"
"""The alphabet on which no part of the pocket checkpoint is trained."""
DRAWERS = 20


def omniglot_lines(archives: list[Path]) -> tuple[list[tuple[str, str]], Tensor]:
    """Read all drawings of the archives.

    Returns:
        (alphabet, character) of each character, and thin line drawings (characters, 20, 105, 105) float in [0, 1].
    """
    drawings: dict[tuple[str, str, int], np.ndarray] = {}
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".png") and "__MACOSX" not in name:
                    _, alphabet, character, file = name.split("/")
                    pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L"), dtype=np.float32)
                    drawings[alphabet, character, int(file.split("_")[1][:2])] = 1 - pixels / 255
    names = sorted({key[:2] for key in drawings})
    lines = [[drawings[(*name, drawer)] for drawer in range(1, DRAWERS + 1)] for name in names]
    return names, torch.from_numpy(np.array(lines))


def words_for(count: int, seed: int = 0) -> list[str]:
    """Pronounceable words of two syllables, one for each base class: "bako", "dimu", ..."""
    syllables = [consonant + vowel for consonant in "bdfgjklmnprstvz" for vowel in "aeiou"]
    shuffled = [syllables[i] for i in np.random.RandomState(seed).permutation(len(syllables))]
    half = int(np.ceil(count**0.5))
    return [first + second for first in shuffled[:half] for second in shuffled[-half:]][:count]
