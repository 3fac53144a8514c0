r"""Escape text that comes from others before it is shown: labels, file names and what files say of themselves, for a terminal or a log."""

from __future__ import annotations

import unicodedata

__all__ = ["UNSEEN", "escaped", "has_surrogates", "without_surrogates"]

_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the display order of the rest of the line."""
UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U00016fe4")
"""Invisible letters, marks and signs."""
_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, surrogate halves, line and paragraph separators."""


def escaped(text: str) -> str:
    r"""Escape each invisible character, and each that could begin a line, move the cursor or change the display order.

    Letters of all scripts stay as they are.

    >>> escaped("cat\n\x1b[2Jdog")
    'cat\\n\\x1b[2Jdog'
    """
    if text.isprintable() and UNSEEN.isdisjoint(text):
        return text
    unsafe = {c for c in text if unicodedata.category(c) in _CATEGORIES or c in _DIRECTIONS or c in UNSEEN}
    return "".join(c.encode("unicode_escape").decode() if c in unsafe else c for c in text)


def has_surrogates(text: str) -> bool:
    """Whether the text contains surrogates, as paths have for bytes that are not UTF-8; tokenizers refuse them."""
    return any("\ud800" <= c <= "\udfff" for c in text)


def without_surrogates(text: str) -> str:
    r"""The text as UTF-8 can store it: each surrogate becomes its escape.

    >>> without_surrogates("caf\udce9")
    'caf\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode()
