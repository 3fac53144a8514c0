"""Find the token and the end of ``embedding:name`` in a prompt, in the same way on the command line and in ComfyUI."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from .name_search import KnownForms, letters_of
from .names import find_class, index_of, normal_form

__all__ = [
    "EMBEDDING", "LOOSE_WEIGHT", "SUFFIXES", "Reference", "behind_suffix", "class_called", "continues_name",
    "forms_as_words", "is_of_a_name", "known_forms", "names_as_words", "nearest", "plain_letters", "reference_at",
    "without_suffix",
]  # fmt: skip

EMBEDDING = re.compile(r"(?:embedding\s*[:：]\s*)+", re.IGNORECASE)
"""Prefix of a name; written twice, as in a template that has it already, it is still one."""
SUFFIXES = (".safetensors", ".pt", ".bin")
"""Suffixes of embedding files, which may follow a name."""
_QUOTED = re.compile(r"\"([^\"]+)\"|'([^']+)'|<([^<>]+)>|[{｛]+([^{}｛｝]+)[}｝]+")
_WORD = re.compile(r"[^\s,;()\[\]{}<>|\"“”，、。：:]+")
LOOSE_WEIGHT = re.compile(r"\s*:+\s*[-+]?\.?\d(?![\d.]*\s*\))")
"""A weight without a bracket after it, up to its first digit: the whole number takes cubic time before a bracket."""
_MIN_SIMILARITY = 0.65
"""Minimum similarity; one wrong letter in a name of three letters gives 0.67."""
_MAX_MISSPELT, _MAX_COMPARISONS = 200, 500_000
"""Limits on the length of a name that is compared with others, and on the product of lengths over all comparisons."""
_OPENING, _CLOSING = re.compile(r"([{<])\s*"), {"{": re.compile(r"\s*\}"), "<": re.compile(r"\s*>")}
_OF_A_WORD = re.compile(r"[\w-]")
_PRIVATE = 0xF0000
"""First character of the private use area, which belongs to no name."""


class Reference(NamedTuple):
    name: str
    """The name as written, without quotes and file suffix."""
    class_index: int | None
    """The class; None if no token has this name."""
    end: int
    """Position at which the text continues."""


@lru_cache(maxsize=8)
def known_forms(labels: tuple[str, ...], names: tuple[str, ...]) -> KnownForms:
    """All labels and names, the longest first; a name takes precedence over another class's label.

    Includes names with underscores for hyphens, unless another class has that name.
    """
    known = {normal_form(text): index for texts in (labels, names) for index, text in enumerate(texts) if text}
    for form, index in list(known.items()):
        known.setdefault(form.replace("-", "_"), index)
    return _longest_first(known)


@lru_cache(maxsize=8)
def forms_as_words(known: KnownForms) -> KnownForms:
    """Like ``known_forms``, also with spaces for hyphens and underscores."""
    return _longest_first({re.sub("[-_]", " ", form): index for form, index in known.pairs} | dict(known.pairs))


def _longest_first(known: Mapping[str, int]) -> KnownForms:
    return KnownForms(tuple(sorted(known.items(), key=lambda item: -len(item[0]))))


def reference_at(text: str, at: int, labels: Sequence[str], names: Sequence[str], known: KnownForms) -> Reference:
    """Resolve the ``embedding:`` that ends at this position: the longest matching name or label, also in quotes or with a suffix.

    ``text`` is in NFC; ``known`` is from ``known_forms``.
    """
    if quoted := _QUOTED.match(text, at):
        name = without_suffix(next(filter(None, quoted.groups()), "").strip().strip("\"'"))
        return Reference(name, class_called(name, labels, names), quoted.end())
    letters, starts, places = letters_of(text) if known.pairs else ("", (), ())
    for each in known.at(letters, starts[at]) if known.pairs else ():
        end = places[starts[at] + len(known.letters[each])]
        end = behind_suffix(text, end) if end >= 0 else end
        if end >= 0 and _ends_at(text, end):
            return Reference(without_suffix(text[at:end]), known.pairs[each][1], end)
    found = _WORD.match(text, at)
    word = found[0].rstrip(".!?") if found else ""
    name = without_suffix(word)
    return Reference(name, class_called(name, labels, names), at + len(word))


def class_called(name: str, labels: Sequence[str], names: Sequence[str]) -> int | None:
    """The class of a name or label in a prompt; a name takes precedence over another class's label. None if unknown."""
    index = index_of(name, names) if name else None
    return find_class(name, labels, names) if name and index is None else index


def nearest(name: str, known: KnownForms) -> int | None:
    """The class that an unknown name probably means, also after folders; None if none is close."""
    folded, forms = plain_letters(without_suffix(re.split(r"[/\\]", name)[-1])), _plain_forms(known)
    close = _closest(folded, forms) if len(folded) <= _MAX_MISSPELT else None
    if close is None:  # 猫が好き
        begins = (form for form in forms if form and folded.startswith(form))
        close = next((form for form in begins if len(form) > 2 or not form.isascii()), None)
    return None if close is None else forms[close]


@lru_cache(maxsize=8)
def _plain_forms(known: KnownForms) -> dict[str, int]:
    return {plain_letters(form): index for form, index in known.pairs}


def _closest(name: str, forms: Iterable[str]) -> str | None:
    """First result of ``difflib.get_close_matches``; of very many long forms, only those with the name's ends are compared."""
    counts, possible = Counter(name), list[tuple[int, float, str]]()
    for form in forms:
        length = len(form) + len(name)
        if length and 2 * min(len(form), len(name)) >= _MIN_SIMILARITY * length:
            bound = 2 * sum(min(count, form.count(letter)) for letter, count in counts.items()) / length
            if bound >= _MIN_SIMILARITY:
                ends = _begin_alike(name, form) + _begin_alike(name[::-1], form[::-1])
                possible.append((ends, bound, form))
    matcher, best, room = difflib.SequenceMatcher(b=name), (_MIN_SIMILARITY, ""), _MAX_COMPARISONS
    for _, bound, form in sorted(possible, reverse=True):
        if bound >= best[0] and room > 0:
            matcher.set_seq1(form)
            best = max(best, (matcher.ratio(), form))
            room -= len(form) * len(name)
    return best[1] or None


def _begin_alike(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def plain_letters(text: str) -> str:
    """Text without accents, with wide letters as narrow ones: ｃａｆé is cafe."""
    letters = unicodedata.normalize("NFKD", normal_form(text))
    return "".join(c for c in letters if unicodedata.category(c) not in ("Mn", "Cf"))


def names_as_words(text: str, known: KnownForms) -> list[tuple[str, int]]:
    """(normal form, class) of each name in a text that is not a word: in braces or angle brackets, or with a hyphen or underscore."""
    folded = normal_form(text)
    (letters, starts, places), found = letters_of(folded), set[int]()
    opened = {at: sign[1] for sign in _OPENING.finditer(folded) for at in range(sign.end(1), sign.end() + 1)}
    for at in range(len(folded)):
        free = not at or not (folded[at - 1].isalnum() or folded[at - 1] in "_:/\\-")
        if (at not in opened and not free) or starts[at] < 0:
            continue
        for each in known.at(letters, starts[at]):
            form = known.pairs[each][0]
            end = places[starts[at] + len(known.letters[each])]
            is_bare_name = free and ("-" in form or "_" in form) and not _OF_A_WORD.match(folded, end)
            if end >= 0 and (is_bare_name or (at in opened and _CLOSING[opened[at]].match(folded, end))):
                found.add(each)
    return [known.pairs[each] for each in sorted(found)]


def behind_suffix(text: str, end: int) -> int:
    """End of a name whose letters end here: after the file suffix, if there is one."""
    suffix = next((s for s in SUFFIXES if text[end : end + len(s)].lower() == s), "")
    return end + len(suffix) if suffix and _ends_at(text, end + len(suffix)) else end


def _ends_at(text: str, end: int) -> bool:
    """Whether a name ends here; also true if the next reference begins here, as in prompts joined without a space."""
    return not continues_name(text, end) or bool(EMBEDDING.match(text, end))


def continues_name(text: str, end: int) -> bool:
    """Whether the character at this position continues the name."""
    here, behind = text[end : end + 1], text[end + 1 : end + 2]
    return bool(here) and (is_of_a_name(here) or (here == "." and bool(behind) and is_of_a_name(behind)))


def is_of_a_name(character: str) -> bool:
    return character in "-_" or (ord(character) < _PRIVATE and unicodedata.category(character)[0] in "LMN")


def without_suffix(name: str) -> str:
    return next((name[: -len(s)] for s in SUFFIXES if name.lower().endswith(s)), name)
