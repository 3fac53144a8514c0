"""The form in which names and labels are compared everywhere: in prompts, pick, rename, add, merge, Route and resuming."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["index_of", "indices_of", "label_of_folder", "normal_form"]


def normal_form(text: str) -> str:
    """The text without differences that a reader does not see or intend: composed letters (NFC), and no case.

    Systems store the same name in different ways: a Mac writes é as two code points, most others as one.

    >>> normal_form("Cafe\\u0301") == normal_form("CAFÉ")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def index_of(wanted: str, texts: Sequence[str]) -> int | None:
    """Index of a text among others, preferably an exact match, otherwise in normal form; None without a match."""
    return next(iter(indices_of(wanted, texts)), None)


def indices_of(wanted: str, texts: Sequence[str]) -> list[int]:
    """Like ``index_of``, for all matches."""
    if exact := [index for index, text in enumerate(texts) if text == wanted]:
        return exact
    return list(_by_form(tuple(texts)).get(normal_form(wanted), ()))


@lru_cache(maxsize=8)
def _by_form(texts: tuple[str, ...]) -> dict[str, list[int]]:
    """Normal form -> indices; cached, since many texts are looked up in one set."""
    places: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        places.setdefault(normal_form(text), []).append(index)
    return places


def label_of_folder(name: str) -> str:
    r"""A folder's name as a label that every encoding can carry: of one that is not UTF-8, a byte 0xE9 becomes ``\xe9``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
