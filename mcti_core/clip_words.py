"""Words of CLIP's vocabulary: programs that add an embedding to CLIP's tokenizer cannot give it such a name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

__all__ = ["words_among"]


def words_among(names: Sequence[str]) -> list[str]:
    """Those of the token names that are in CLIP's vocabulary, to the letter and in small letters, and so name other vectors already.

    >>> words_among(["cat", "my-cat", "Cat"])
    ['cat']
    """
    return [name for name in names if name in _words()]


@cache
def _words() -> frozenset[str]:
    """The vocabulary's entries that are ASCII letters, digits, - and _, and end no word; of openai/CLIP (MIT licence)."""
    return frozenset(Path(__file__).with_name("clip_words.txt").read_text(encoding="ascii").split())
