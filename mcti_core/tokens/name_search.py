"""Find the names of a token set in a text, in time that grows with the text and hardly with the set.

Texts are compared letter by letter in a form without case and without composed letters. In this form, the letters of a
substring are a substring of the letters. Two texts with equal forms have equal ``normal_form``.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

__all__ = ["KnownForms", "Letters", "letters_of"]


class Letters(NamedTuple):
    """A text of n characters as m comparable letters."""

    text: str
    starts: Sequence[int]
    """(n + 1,) index of the letter at which each character begins; -1 for a reordered mark."""
    places: Sequence[int]
    """(m + 1,) index of the character that begins at each letter, or -1."""


@lru_cache(maxsize=8)
def letters_of(text: str) -> Letters:
    """The letters of a text; cached, since all names in one prompt are searched in the same text."""
    if text.isascii():
        return Letters(text.lower(), range(len(text) + 1), range(len(text) + 1))
    clusters: list[str] = []
    for character in text:
        if clusters and unicodedata.combining(character):
            clusters[-1] += character
        else:
            clusters.append(character)
    parts, starts, length = list[str](), list[int](), 0
    for cluster in clusters:
        cluster_letters, character_letters = _decomposed(cluster), [_decomposed(character) for character in cluster]
        in_order = "".join(character_letters) == cluster_letters
        at = length
        for number, letters in enumerate(character_letters):
            starts.append(at if in_order or number == 0 else -1)
            at += len(letters)
        parts.append(cluster_letters)
        length += len(cluster_letters)
    starts.append(length)
    places = [-1] * (length + 1)
    for place, start in enumerate(starts):
        if start >= 0:
            places[start] = place
    return Letters("".join(parts), starts, places)


class KnownForms:
    """Normal forms of names, each with its class, in search order."""

    def __init__(self, pairs: tuple[tuple[str, int], ...]):
        self.pairs = pairs
        self.letters = [_decomposed(form) for form, _ in pairs]
        """Letters of each form."""
        self._order = sorted(range(len(pairs)), key=self.letters.__getitem__)
        self._sorted = [self.letters[each] for each in self._order]
        self._longest = max(map(len, self.letters), default=0)
        self._shorter, prefixes = list[int](), list[int]()
        """Index into ``_sorted`` of the longest other form that each form begins with, or -1."""
        for each, form in enumerate(self._sorted):
            while prefixes and not form.startswith(self._sorted[prefixes[-1]]):
                prefixes.pop()
            self._shorter.append(prefixes[-1] if prefixes else -1)
            prefixes.append(each)

    def at(self, letters: str, start: int) -> list[int]:
        """Indices into ``pairs``, in order, of the forms that match the letters from this position; -1 is no position."""
        return sorted(self._order[each] for each in self._beginning(letters, start))

    def within(self, letters: str, starts: Iterable[int]) -> list[int]:
        """Indices into ``pairs``, in order, of the forms that begin at any of these positions."""
        longest = {next(self._beginning(letters, start), -1) for start in starts}
        found = set[int]()
        for each in longest:
            while each >= 0 and each not in found:
                found.add(each)
                each = self._shorter[each]
        return sorted(self._order[each] for each in found)

    def _beginning(self, letters: str, start: int) -> Iterator[int]:
        """Indices into ``_order`` of all forms that begin here, the longest first.

        The last form that does not sort after the letters equals, or begins with, each of these forms.
        """
        letters = letters[start : start + self._longest]
        each = bisect_right(self._sorted, letters) - 1 if start >= 0 else -1
        while each >= 0:
            if letters.startswith(self._sorted[each]):
                yield each
            each = self._shorter[each]


def _decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
