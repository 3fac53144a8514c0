"""Size limits: a file's claims are checked against these numbers before its content is used."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from ..errors import TokenError

__all__ = [
    "IMAGE_MEMORY", "MAX_BRACKETS", "MAX_CLASSES", "MAX_ENCODED", "MAX_HEADER_BYTES", "MAX_IMAGE_BYTES",
    "MAX_IMAGE_PIXELS", "MAX_IMAGE_READS", "MAX_IMAGE_SIDE", "MAX_LABEL", "MAX_LOGITS", "MAX_MARKS", "MAX_METADATA_BYTES",
    "MAX_NUMBER", "MAX_PROMPT", "MAX_SCANNED_PIXELS", "MAX_SCANS", "MAX_SET_BYTES", "MAX_STEPS", "MAX_TEMPLATE",
    "MAX_TEMPLATES", "MAX_TRAINING_BYTES", "MAX_WIDTH", "check_counts", "has_many_marks",
]  # fmt: skip

MAX_CLASSES = 4096
MAX_LABEL = 1000
"""Characters of a label."""
MAX_MARKS = 30
"""Combining marks in a row in a text, as in Unicode's stream-safe format: sorting them takes the square of their number."""
MAX_TEMPLATES, MAX_TEMPLATE = 1000, 2000
"""Number of templates, and characters of each; a text encoder reads a few hundred."""
MAX_PROMPT, MAX_BRACKETS = 5000, 50
"""Characters of a prompt, and nested brackets; a text encoder reads 75 tokens."""
MAX_ENCODED = 250_000
"""Classes times templates: a classifier encodes each of these prompts when it is created."""
MAX_LOGITS = 10**6
"""Examples times classes for which a logistic probe is fitted, and that calibration uses; for more they would take minutes."""
MAX_WIDTH = 8192
"""Width of a vector; the widest text encoder in ``tokens/encoders.py`` has 5376."""
MAX_NUMBER = 1e6
"""Largest number in a vector from a file; learned numbers are below 100, and the square of a larger one may overflow."""
MAX_SET_BYTES = 2**30
"""Size of a token set's file."""
MAX_TRAINING_BYTES = 2**32
"""Size of a saved training's file, which contains the vectors four times."""
MAX_STEPS = 4_000_000
"""Steps in a saved training, which stores the losses of each."""
MAX_HEADER_BYTES = 2**24
"""Size of a safetensors header."""
MAX_IMAGE_BYTES = 2**30
"""Size of an image's file."""
MAX_IMAGE_PIXELS = 200_000_000
"""The largest photos of phones are 16320 x 12240."""
MAX_IMAGE_SIDE = 1_000_000
MAX_METADATA_BYTES = 2**24
"""Bytes that an image's reader may read beside the pixels; for TIFF, WebP, AVIF and HEIC up to the whole file."""
MAX_IMAGE_READS = 2_000_000
"""Number of reads of an image's file while its pixels are decoded; each block takes a few."""
IMAGE_MEMORY = 2**31
"""Memory in bytes for all images that are read at the same time, and so for one image."""
MAX_SCANS = 64
"""Passes over a JPEG's pixels. A progressive photo has about ten; each costs time at full size."""
MAX_SCANNED_PIXELS = 2_500_000_000
"""Pixels times passes."""


def check_counts(labels: Sequence[str], templates: Sequence[str]) -> None:
    """Raises: TokenError: too many or too long classes or templates, or values that are not text."""
    limits = ("classes", labels, MAX_CLASSES, MAX_LABEL), ("templates", templates, MAX_TEMPLATES, MAX_TEMPLATE)
    for what, texts, most, longest in limits:
        if len(texts) > most:
            raise TokenError(f"there are {len(texts):,} {what}; a token set has at most {most:,}")
        for text in texts:
            if not isinstance(text, str) or len(text) > longest:
                size = f"one of {len(text):,} characters" if isinstance(text, str) else f"a {type(text).__name__}"
                raise TokenError(f"labels and templates must be texts of at most {longest:,} characters, got {size}")
    if crowded := next(filter(has_many_marks, (*labels, *templates)), None):
        raise TokenError(f"{crowded[:20]!r}... puts more than {MAX_MARKS} combining marks on one letter; shorten it")
    prompts = len(labels) * len(templates)
    if prompts > MAX_ENCODED:
        counts = f"{len(labels):,} classes in {len(templates):,} templates are {prompts:,} prompts"
        raise TokenError(f"{counts}; at most {MAX_ENCODED:,} are encoded, so use fewer of either")


def has_many_marks(text: str) -> bool:
    """Whether a letter has more than ``MAX_MARKS`` combining marks; takes linear time, which Unicode normalization does not."""
    if text.isascii():
        return False
    marks = 0
    for character in text:
        for part in unicodedata.normalize("NFD", character) if character >= "\u0300" else character:
            marks = marks + 1 if unicodedata.combining(part) else 0
        if marks > MAX_MARKS:
            return True
    return False
