"""Words of CLIP's vocabulary: programs that add an embedding to CLIP's tokenizer cannot give it such a name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

__all__ = ["describe_words", "words_among"]


def words_among(names: Sequence[str]) -> list[str]:
    """Those of the token names that are in CLIP's vocabulary, to the letter and in small letters, and so name other vectors already.

    >>> words_among(["cat", "my-cat", "Cat"])
    ['cat']
    """
    return [name for name in names if name in _words()]


def describe_words(names: Sequence[str], remedy: str) -> str:
    """A sentence that names those words and what they break, with what to do; empty where there is none."""
    words = words_among(names)
    if not words:
        return ""
    shown = ", ".join(words[:10]) + (f" and {len(words) - 10} more" if len(words) > 10 else "")
    return f"{shown}: words of CLIP's vocabulary, by which kohya's gen_img, SD.Next and diffusers cannot load an embedding; {remedy}"


@cache
def _words() -> frozenset[str]:
    """The vocabulary's entries that are ASCII letters, digits, - and _, and end no word; of openai/CLIP (MIT licence)."""
    return frozenset(Path(__file__).with_name("clip_words.txt").read_text(encoding="ascii").split())
