"""Words of CLIP's vocabulary: programs that add embeddings to CLIP's tokenizer cannot use them as names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ..errors import listed

__all__ = ["describe_words", "words_among"]


def words_among(names: Sequence[str]) -> list[str]:
    """The token names that are exactly words of CLIP's vocabulary, in lower case, and so already name other vectors.

    >>> words_among(["cat", "my-cat", "Cat"])
    ['cat']
    """
    return [name for name in names if name in _words()]


def describe_words(names: Sequence[str], remedy: str) -> str:
    """A message that lists those words, what they break and what to do; empty if there are none."""
    if not (words := words_among(names)):
        return ""
    return f"{listed(words)}: words of CLIP's vocabulary, by which kohya's gen_img, SD.Next and diffusers cannot load an embedding; {remedy}"


@cache
def _words() -> frozenset[str]:
    """The vocabulary's entries of ASCII letters, digits, - and _ that do not end a word; from openai/CLIP (MIT licence).

    And the single characters by which a byte-level vocabulary writes bytes that are no ASCII letters, such as "ä".
    """
    written = Path(__file__).with_name("clip_words.txt").read_text(encoding="ascii").split()
    return frozenset([*written, *map(chr, range(0xA1, 0x144))])
