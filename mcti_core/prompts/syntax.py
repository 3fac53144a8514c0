"""Parse prompts: references to learned tokens in all usual spellings, and weights by ComfyUI's rule.

Prompts are untrusted text, often copied from other programs. So text that resembles a reference or a weight is either
understood, or refused with the right spelling; it never silently becomes plain letters.
"""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NoReturn

from ..errors import TokenError
from ..escaping import has_surrogates
from ..files.limits import MAX_BRACKETS, MAX_MARKS, MAX_PROMPT, has_many_marks
from ..tokens import references
from ..tokens.name_search import letters_of
from ..tokens.names import normal_form

__all__ = ["Piece", "parse_prompt"]

Piece = tuple[str | int, float]
"""A text or the index of a class, with its weight."""

_MARK = 0xF0000
"""Represents a class while weights are parsed: a character of a private use plane."""
_PLACEHOLDER = "\U0010ffff"
"""Replaces a name's further characters while bare names are searched."""
_MAX_CANDIDATES = 100_000
"""Maximum number of candidate bare names per prompt; a meaningful prompt has a few hundred."""
_LITERAL = {"\\(": "\U000ffff0", "\\)": "\U000ffff1", "\\{": "\U000ffff2", "\\}": "\U000ffff3", "\\[": "\U000ffff4", "\\]": "\U000ffff5"}  # fmt: skip
_WEIGHT = 1.1
"""Weight of brackets without a number."""
_BRACES = re.compile(r"[{｛]+([^{}｛｝]*)[}｝]+")
_KIND = re.compile(r"^(?:embed|embedding|ti)\s*[:：]\s*", re.IGNORECASE)
"""Optional prefixes of a name in braces or angle brackets."""
_ANGLES = re.compile(r"<([^\s<>][^<>]*)>")
_FILE = re.compile(r"(lora|lyco|hypernet)\w*:", re.IGNORECASE)
_WILDCARD = re.compile(r"(?<![^\W_])__[^\W_](?:\S*?[^\W_])?__(?![^\W_])")
_COMPEL = re.compile(
    r"[\U000f0000-\U000fffef)](\++|--+)(?=[\s,.;)]|$)|[\U000f0000-\U000fffef)\"'](\.(?:and|blend|swap)\()"
)
"""Characters after a token or a bracket by which InvokeAI's prompts weight and blend."""
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts without spaces between words, so that a name can be inside of other words."""
_MAX_SHOWN = 20
_LOG = logging.getLogger(__name__)


@lru_cache(maxsize=4096)
def parse_prompt(prompt: str, names: tuple[str, ...], labels: tuple[str, ...] = ()) -> tuple[Piece, ...]:
    """Split a prompt into parts, in order.

    A token of the set is written ``{name}`` or ``embedding:name``, by its name or its label, in any case and composition; also with a
    file suffix, in quotes, as ``<name>``, or bare if the name is not a word (``my-cat``). ``(words:1.2)`` weights words as ComfyUI
    does, ``\\(`` is a bracket. A bare name that is also a word is treated as a word, which is logged.

    Args:
        names: (C,) names of the tokens.
        labels: (C,) the classes' labels, or none.

    Raises:
        TokenError: an unknown name, unclosed brackets, unsupported syntax of another program, or more characters or brackets
            than ``files/limits.py`` allows.
    """
    return tuple(_Parser(prompt, names, labels or names).pieces())


class _Parser:
    def __init__(self, prompt: str, names: Sequence[str], labels: Sequence[str]):
        self.prompt, self.names, self.labels = prompt, names, labels
        self.known = references.known_forms(tuple(labels), tuple(names))

    def pieces(self) -> list[Piece]:
        if len(self.prompt) > MAX_PROMPT:
            self._refuse(f"has {len(self.prompt):,} characters", f"write at most {MAX_PROMPT:,}")
        if has_many_marks(self.prompt):
            self._refuse("puts very many combining marks on one letter", f"write at most {MAX_MARKS}")
        text = "".join(c for c in unicodedata.normalize("NFC", self.prompt) if ord(c) < _MARK)
        for escape, literal in _LITERAL.items():
            text = text.replace(escape, literal)
        marked = self._mark_references(text)
        self._refuse_foreign_syntax(marked)  # a class may be called BREAK
        self._refuse_leftovers(marked)
        marked = self._mark_bare_names(marked)
        pieces = [(piece, weight) for part, weight in self._split_weights(marked, 1.0) for piece in _split_marks(part)]
        self._refuse_weights_outside(pieces)
        return pieces

    def _mark_references(self, text: str) -> str:
        """Replace every reference by one character."""
        parts, at = [], 0
        while at < len(text):
            if found := references.EMBEDDING.match(text, at):
                reference = references.reference_at(text, found.end(), self.labels, self.names, self.known)
                index, at = reference.class_index, reference.end
                if index is None:
                    index = self._index(reference.name, f"embedding:{reference.name}")
            elif found := _BRACES.match(text, at):
                index, at = self._index(found[1], found[0]), found.end()
            elif found := _ANGLES.match(text, at):
                if _FILE.match(found[1]):
                    remedy = f"write tokens as {self._example()}"
                    self._refuse(f"contains {found[0]!r}, and a prompt loads no files here", remedy)
                index, at = self._index(found[1], found[0]), found.end()
            else:
                parts.append(text[at])
                at += 1
                continue
            parts.append(chr(_MARK + index))
        return "".join(parts)

    def _index(self, name: str, written: str) -> int:
        name = references.without_suffix(_KIND.sub("", name.strip()).strip("\"'"))
        index = references.class_called(name, self.labels, self.names)
        if index is not None:
            return index
        weight = re.fullmatch(r"(.+?)\s*:\s*[-+.\d]+", name)
        if weight and references.class_called(weight[1], self.labels, self.names) is not None:
            self._refuse(f"contains {written!r}", f"write a weight as ({{{weight[1].strip()}}}:1.2)")
        if "|" in name:
            self._refuse(f"contains {written!r}", f"write one name, such as {self._example()}")
        if not name:
            self._refuse(f"contains {written!r}, which is not a token", f"there are: {self._listed()}")
        close = references.nearest(name, self.known)
        question = "" if close is None else f"; did you mean {{{self.names[close]}}}?"
        self._refuse(f"names {name!r}, which is not a token here", f"there are: {self._listed()}{question}")

    def _mark_bare_names(self, text: str) -> str:
        """Resolve names without reference syntax: a token if it can be nothing else; otherwise words, which is logged."""
        known, (letters, starts, places) = references.forms_as_words(self.known), letters_of(text)
        beginnings = [start for at, start in enumerate(starts) if start >= 0 and _may_begin(text, at)]
        tries = _MAX_CANDIDATES
        for index in known.within(letters, starts):
            (form, class_index), form_letters = known.pairs[index], known.letters[index]
            is_no_word = "-" in form or "_" in form or not form.isascii()
            spaceless = unicodedata.name(form[0], "").startswith(_SPACELESS)
            start = letters.find(form_letters)
            while start >= 0 and tries > 0:
                tries -= 1
                at, end = places[start], places[start + len(form_letters)]
                whole_characters = at >= 0 <= end
                end = references.behind_suffix(text, end)
                begins = whole_characters and not (at and references.is_of_a_name(text[at - 1]))
                is_name = begins and not references.continues_name(text, end)
                if is_name and is_no_word:  # replacements keep their length until all names are found
                    text = f"{text[:at]}{chr(_MARK + class_index)}{_PLACEHOLDER * (end - at - 1)}{text[end:]}"
                    letters = f"{letters[:start]}{_PLACEHOLDER * (starts[end] - start)}{letters[starts[end] :]}"
                elif is_name or (spaceless and whole_characters):
                    _LOG.warning(
                        "prompt %r: %r is treated as a word; write {%s} for the learned token",
                        self.prompt[:120], text[at:end], self.names[class_index],
                    )  # fmt: skip
                    break
                later = bisect_right(beginnings, start)
                after = start + 1 if spaceless else beginnings[later] if later < len(beginnings) else len(letters)
                start = letters.find(form_letters, after)
        return text.replace(_PLACEHOLDER, "")

    def _split_weights(self, text: str, weight: float) -> Iterator[tuple[str, float]]:
        """(text, weight) of every part: ``(x)`` multiplies the weight by 1.1; ``(x:w)`` sets it to w, regardless of outer brackets.

        References: ``token_weights`` in ComfyUI's comfy/sd1_clip.py.
        """
        start = depth = 0
        for at, character in enumerate(text):
            if character == "(":
                if depth == 0:
                    yield text[start:at], weight
                    start = at + 1
                depth += 1
                if depth > MAX_BRACKETS:
                    self._refuse(f"has more than {MAX_BRACKETS} nested brackets", "write weights as (words:1.2)")
            elif character == ")":
                depth -= 1
                if depth == 0:
                    yield from self._split_bracket(text[start:at], weight)
                    start = at + 1
            if depth < 0:
                break
        if depth:
            sign = "(" if depth > 0 else ")"
            self._refuse(
                f"has a {sign!r} without a matching bracket",
                f"write weights as ({self._example()}:1.2), and a plain bracket as \\{sign}",
            )
        yield text[start:], weight

    def _split_bracket(self, inside: str, weight: float) -> Iterator[tuple[str, float]]:
        words, colon, number = inside.rpartition(":")
        try:
            own_weight = float(number) if colon and words else None
        except ValueError:
            own_weight = None
        if own_weight is None:
            yield from self._split_weights(inside, weight * _WEIGHT)
            return
        if not math.isfinite(own_weight):
            self._refuse(f"has the weight {number.strip()!r}", "a weight is a number such as 1.2")
        yield from self._split_weights(words, own_weight)

    def _refuse_foreign_syntax(self, text: str) -> None:
        if part := re.search(r"\b(BREAK|AND)\b", text):
            self._refuse(
                f"contains {part[0]}, which starts another part in other programs",
                f"a prompt is one part here: leave {part[0]} out, or write it in lower case if you mean the word",
            )
        if wildcard := _WILDCARD.search(text):
            self._refuse(
                f"contains {wildcard[0][:40]!r}, which stands for a line of a file in other programs",
                f"write a token as {self._example()}, and words without underscores around them",
            )
        if brackets := re.search(r"\[[^\[\]]*\]", text):
            self._refuse(
                f"contains {self._unmark(brackets[0])[:40]!r}, which is syntax of other programs",
                "write a lower weight as (words:0.9), and a plain bracket as \\[",
            )

    def _refuse_leftovers(self, marked: str) -> None:
        for sign, other in ("{}", "}{", "｛｝", "｝｛"):
            if sign in marked:
                self._refuse(
                    f"has a {sign!r} without its {other!r}",
                    f"write a token as {self._example()}, and a plain brace as \\{sign}",
                )
        if has_surrogates(marked):
            self._refuse("contains an invalid character (a lone surrogate)", "remove it, or type it again")
        if found := _COMPEL.search(marked):
            self._refuse(
                f"has {found[1] or found[2]!r} after a token or a bracket, which is syntax of other programs",
                f"write a weight as ({self._example()}:1.2)",
            )

    def _refuse_weights_outside(self, pieces: Sequence[Piece]) -> None:
        for (piece, _), (behind, _) in pairwise(pieces):
            if isinstance(piece, int) and isinstance(behind, str) and references.LOOSE_WEIGHT.match(behind):
                name = self.names[piece]
                self._refuse(f"has a weight after {name!r} without closing brackets", f"write ({{{name}}}:1.2)")

    def _unmark(self, marked: str) -> str:
        return "".join(f"{{{self.names[ord(c) - _MARK]}}}" if ord(c) in range(_MARK, 0xFFFF0) else c for c in marked)

    def _example(self) -> str:
        return f"{{{self.names[0]}}}" if self.names else "{name}"

    def _listed(self) -> str:
        shown = [
            name if normal_form(name) == normal_form(label) else f"{name} ({label})"
            for name, label in zip(self.names, self.labels, strict=True)
        ]
        more = f" and {len(shown) - _MAX_SHOWN} more" if len(shown) > _MAX_SHOWN else ""
        return (", ".join(shown[:_MAX_SHOWN]) or "none") + more

    def _refuse(self, wrong: str, remedy: str) -> NoReturn:
        shown = self.prompt if len(self.prompt) <= 120 else f"{self.prompt[:119]}…"
        raise TokenError(f"prompt {shown!r} {wrong}; {remedy}")


def _split_marks(text: str) -> Iterator[str | int]:
    """Split a marked text into texts and classes."""
    for escape, literal in _LITERAL.items():
        text = text.replace(literal, escape[1])
    for part in re.split(r"([\U000f0000-\U000fffef])", text):
        if part:
            yield ord(part) - _MARK if len(part) == 1 and ord(part) >= _MARK else part


def _may_begin(text: str, at: int) -> bool:
    """Whether a name can begin here; also true after a name that was already replaced."""
    return not (
        text[at - 1 : at]
        and text[at : at + 1]
        and references.is_of_a_name(text[at - 1])
        and references.is_of_a_name(text[at])
    )
