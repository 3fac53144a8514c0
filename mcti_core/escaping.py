r"""Escape text that comes from others before it is shown: labels, file names and what files say of themselves, for a terminal or a log."""

from __future__ import annotations

import unicodedata

__all__ = ["UNSEEN", "escaped", "has_surrogates", "without_surrogates"]

_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the display order of the rest of the line."""
UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U00016fe4")
"""Letters, marks and signs that show nothing."""
_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, surrogate halves, line and paragraph separators."""


def escaped(text: str) -> str:
    r"""The text with an escape for each character that could begin another line, move the cursor or turn the order, or shows nothing.

    Letters of all scripts stay as they are.

    >>> escaped("cat\n\x1b[2Jdog")
    'cat\\n\\x1b[2Jdog'
    """
    if text.isprintable() and UNSEEN.isdisjoint(text):
        return text
    unsafe = {c for c in text if unicodedata.category(c) in _CATEGORIES or c in _DIRECTIONS or c in UNSEEN}
    return "".join(c.encode("unicode_escape").decode() if c in unsafe else c for c in text)


def has_surrogates(text: str) -> bool:
    """Whether the text holds half a character, as command lines have it for bytes that are not UTF-8; no tokenizer takes it."""
    return any("\ud800" <= c <= "\udfff" for c in text)


def without_surrogates(text: str) -> str:
    r"""The text as UTF-8 can store it: half a character becomes its escape.

    >>> without_surrogates("caf\udce9")
    'caf\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode()
