"""``embedding:name`` in a prompt: which token it names, and where the name ends; the same on the command line and in ComfyUI."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from .names import find_class
from .normal_form import index_of, normal_form

__all__ = ["EMBEDDING", "SUFFIXES", "Reference", "class_called", "continues_name", "end_of_name", "is_of_a_name", "known_forms", "loose_weight", "names_as_words", "nearest", "plain_letters", "reference_at", "without_suffix"]  # fmt: skip

EMBEDDING = re.compile(r"embedding\s*[:：]\s*", re.IGNORECASE)
"""What stands before a name."""
SUFFIXES = (".safetensors", ".pt", ".bin")
"""Of embedding files, which may stand behind a name."""
_QUOTED = re.compile(r"\"([^\"]+)\"|'([^']+)'|<([^<>]+)>|[{｛]+([^{}｛｝]+)[}｝]+")
_WORD = re.compile(r"[^\s,;()\[\]{}<>|\"“”，、。：:]+")
_LOOSE_WEIGHT = re.compile(r"\s*:+\s*[-+]?\.?\d(?![\d.]*\s*\))")
"""The first digit stands for the number: a pattern of the whole number takes cubic time where a bracket follows."""
_CLOSE = 0.65
"""One letter off in a name of three letters is 0.67."""
_PRIVATE = 0xF0000
"""From here on characters are for private use, and belong to no name."""


class Reference(NamedTuple):
    name: str
    """As written, without quotes and a file's suffix."""
    class_index: int | None
    """The class; None where no token is called so."""
    end: int
    """Where the text goes on."""


def known_forms(labels: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """(normal form, class) of all labels and names, the longest first; a name goes before another class's label.

    Names with low lines for hyphens are among them, where they are nobody's.
    """
    known = {normal_form(text): index for texts in (labels, names) for index, text in enumerate(texts) if text}
    for form, index in list(known.items()):
        known.setdefault(form.replace("-", "_"), index)
    return tuple(sorted(known.items(), key=lambda item: -len(item[0])))


def reference_at(
    text: str, at: int, labels: Sequence[str], names: Sequence[str], known: Sequence[tuple[str, int]]
) -> Reference:
    """What ``embedding:`` names that ends at this place: the longest name or label that fits, also in quotes or with a suffix.

    Args:
        text: in NFC.
        known: as ``known_forms`` gives them.
    """
    if quoted := _QUOTED.match(text, at):
        name = without_suffix(next(filter(None, quoted.groups()), "").strip().strip("\"'"))
        return Reference(name, class_called(name, labels, names), quoted.end())
    ends = _ends(text, at, len(known[0][0]) if known else 0)
    for form, index in known:
        if form not in ends:
            continue
        end = _behind_suffix(text, ends[form])
        if _ends_at(text, end):
            return Reference(without_suffix(text[at:end]), index, end)
    found = _WORD.match(text, at)
    word = found[0].rstrip(".!?") if found else ""
    name = without_suffix(word)
    return Reference(name, class_called(name, labels, names), at + len(word))


def class_called(name: str, labels: Sequence[str], names: Sequence[str]) -> int | None:
    """The class that a name or label means in a prompt, where a name goes before another class's label; None where none is."""
    index = index_of(name, names) if name else None
    return find_class(name, labels, names) if name and index is None else index


def nearest(name: str, known: Sequence[tuple[str, int]]) -> int | None:
    """The class that a name, which is none's, is probably meant for, also behind folders; None where none is close."""
    name = without_suffix(re.split(r"[/\\]", name)[-1])
    folded, forms = plain_letters(name), {plain_letters(form): index for form, index in known}
    close = difflib.get_close_matches(folded, forms, 1, _CLOSE)
    close += [
        form for form in forms if form and folded.startswith(form) and (len(form) > 2 or not form.isascii())
    ]  # 猫が好き
    return forms[close[0]] if close else None


def plain_letters(text: str) -> str:
    """Without accents, and wide letters as narrow ones: ｃａｆé is cafe."""
    letters = unicodedata.normalize("NFKD", normal_form(text))
    return "".join(c for c in letters if unicodedata.category(c) not in ("Mn", "Cf"))


def names_as_words(text: str, known: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """(normal form, class) of each name that stands in a text and is no word: in braces or angles, or with a hyphen or low line."""
    folded = normal_form(text)
    return [(form, index) for form, index in known if form in folded and _is_meant(folded, form)]


def _is_meant(folded: str, form: str) -> bool:
    name = re.escape(form)
    alone = rf"(?<![\w:/\\-]){name}(?![\w-])" if "-" in form or "_" in form else None
    return any(re.search(each, folded) for each in (rf"\{{\s*{name}\s*\}}", rf"<\s*{name}\s*>", alone) if each)


def loose_weight(text: str, end: int) -> bool:
    """Whether a weight stands behind a name that ends here, and no bracket behind the weight."""
    return bool(_LOOSE_WEIGHT.match(text, end))


def end_of_name(text: str, at: int, form: str) -> int | None:
    """Where a name in normal form ends that begins here, its file's suffix included; None where none begins."""
    end = _ends(text, at, len(form)).get(form)
    return None if end is None else _behind_suffix(text, end)


def _ends(text: str, at: int, longest: int) -> dict[str, int]:
    """Where each text ends that begins here, by its normal form, which may be longer or shorter than itself: ẞ is ss."""
    ends: dict[str, int] = {}
    for end in range(at + 1, len(text) + 1):
        form = normal_form(text[at:end])
        if len(form) > longest:
            break
        ends[form] = end
    return ends


def _behind_suffix(text: str, end: int) -> int:
    suffix = next((s for s in SUFFIXES if text[end : end + len(s)].lower() == s), "")
    return end + len(suffix) if suffix and _ends_at(text, end + len(suffix)) else end


def _ends_at(text: str, end: int) -> bool:
    """Whether a name ends here: also where the next reference begins, as in prompts that were joined without a space."""
    return not continues_name(text, end) or bool(EMBEDDING.match(text, end))


def continues_name(text: str, end: int) -> bool:
    """Whether the character at this position continues the name."""
    here, behind = text[end : end + 1], text[end + 1 : end + 2]
    return bool(here) and (is_of_a_name(here) or (here == "." and bool(behind) and is_of_a_name(behind)))


def is_of_a_name(character: str) -> bool:
    return character in "-_" or (ord(character) < _PRIVATE and unicodedata.category(character)[0] in "LMN")


def without_suffix(name: str) -> str:
    return next((name[: -len(s)] for s in SUFFIXES if name.lower().endswith(s)), name)
