"""Names of a token set in a text, found in time that grows with the text, and hardly with the set.

Texts are compared letter by letter in a form without case and without composed letters, in which the letters of a part of a
text are a part of its letters. ``normal_form`` of two texts is equal where this form is.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

__all__ = ["KnownForms", "Letters", "letters_of"]


class Letters(NamedTuple):
    """A text of n characters as m letters that can be compared."""

    text: str
    starts: Sequence[int]
    """(n + 1,) the letter with which each character begins; -1 for a mark that has changed places with others."""
    places: Sequence[int]
    """(m + 1,) the character that begins with each letter, or -1."""


@lru_cache(maxsize=8)
def letters_of(text: str) -> Letters:
    """The letters of a text; kept, since all names in one prompt are looked for in the same."""
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
        whole, own = _decomposed(cluster), [_decomposed(character) for character in cluster]
        in_order = "".join(own) == whole
        at = length
        for number, letters in enumerate(own):
            starts.append(at if in_order or number == 0 else -1)
            at += len(letters)
        parts.append(whole)
        length += len(whole)
    starts.append(length)
    places = [-1] * (length + 1)
    for place, start in enumerate(starts):
        if start >= 0:
            places[start] = place
    return Letters("".join(parts), starts, places)


@dataclass(frozen=True, eq=False)
class KnownForms:
    """Normal forms of names, each with the class that it means, in the order in which they are looked for."""

    pairs: tuple[tuple[str, int], ...]

    @cached_property
    def letters(self) -> list[str]:
        """Of each form."""
        return [_decomposed(form) for form, _ in self.pairs]

    def at(self, letters: str, start: int) -> list[int]:
        """The forms with which letters go on from here (-1 is nowhere): their places in ``pairs``, in order."""
        return sorted(self._order[each] for each in self._beginning(letters, start))

    def within(self, letters: str, starts: Iterable[int]) -> list[int]:
        """The forms that begin at any of these places: their places in ``pairs``, in order."""
        longest = {next(self._beginning(letters, start), -1) for start in starts}
        found = set[int]()
        for each in longest:
            while each >= 0 and each not in found:
                found.add(each)
                each = self._shorter[each]
        return sorted(self._order[each] for each in found)

    def _beginning(self, letters: str, start: int) -> Iterator[int]:
        """Places in ``_order`` of all forms that begin here, the longest first.

        The last form that sorts no higher than the letters is, or begins with, each of them.
        """
        letters = letters[start : start + self._longest]
        each = bisect_right(self._sorted, letters) - 1 if start >= 0 else -1
        while each >= 0:
            if letters.startswith(self._sorted[each]):
                yield each
            each = self._shorter[each]

    @cached_property
    def _order(self) -> list[int]:
        return sorted(range(len(self.pairs)), key=self.letters.__getitem__)

    @cached_property
    def _sorted(self) -> list[str]:
        return [self.letters[each] for each in self._order]

    @cached_property
    def _shorter(self) -> list[int]:
        """The longest other form with which each form begins, or -1."""
        shorter, begun = list[int](), list[int]()
        for each, form in enumerate(self._sorted):
            while begun and not form.startswith(self._sorted[begun[-1]]):
                begun.pop()
            shorter.append(begun[-1] if begun else -1)
            begun.append(each)
        return shorter

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.letters), default=0)


def _decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
