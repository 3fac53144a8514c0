"""Random prompts, and names in every equivalent spelling: each is found, or refused in one sentence."""

from __future__ import annotations

import logging
import math
import unicodedata
from random import Random

from mcti_core.prompts.syntax import parse_prompt
from mcti_core.tokens.names import find_class, normal_form, safe_names
from mcti_core.tokens.references import known_forms, nearest, reference_at

from .mutations import TEXTS

__all__ = ["any_prompt", "every_spelling"]

logging.getLogger("mcti_core").addHandler(logging.NullHandler())  # a name that stands as a word is logged
_LETTERS = (
    "a", "B", "z", "é", "e\u0301", "ß", "ẞ", "ſ", "ı", "İ", "ŉ", "ǰ", "J\u030c", "ΐ", "Ω", "\u2126", "Å", "\u212b", "ﬁ", "Σ", "ς", "Я", "й", "猫", "が", "か\u3099", "한",
    "\u1112\u1161\u11ab", "हि", "नी", "น้ำ", "தி", "שָׁ", "ع", "ﷺ", "🐱", "👩‍🔬", "🇫🇷", "½", "²", "٣", "q\u0323\u0307", "q\u0307\u0323", "ʻ", "1", "07", "-", "_", " ",
)  # fmt: skip
_SIGNS = (
    "{", "}", "{{", "}}", "{}", "(", ")", "((", "))", "[", "]", "<", ">", "｛", "｝", "embedding:", "embedding : ", "EMBEDDING：", "<lora:x:1>", "<embed:", "BREAK", "AND", "\\(", "\\{", "\\",
    ":1.2", ":1.2)", ":-1)", ":1e400)", ":nan)", ":inf)", "|", ",", ", ", ".", ".safetensors", ".pt", "\"", "'", "“", "\n", "\t", " ", "　", "、", "\ue000", "\U000f0000", "\U000f0001", "\U000ffff0", "\U0010ffff",
    "++", "--", "__", "__a__", ".blend(", ".and(", "::2", "a_b",
)  # fmt: skip
_SPELLINGS = (
    "{%s}", "{ %s }", "{{%s}}", "embedding:%s", "embedding: %s", "Embedding:%s", "embedding:%s.safetensors", "embedding:%s.pt", "embedding:\"%s\"", "embedding:<%s>", "embedding:{%s}", "<%s>", "<embedding:%s>",
    "{embedding:%s}", "<ti:%s>", "{embed: %s }",
)  # fmt: skip
_AROUND = ("%s", "(%s:1.3)", "((%s))", "%s, %s", "%s,%s", "(%s,%s:0.5)", "\n%s\n", "%s;", "(%s)", "%s%s", "%s%s%s,")


def _labels(random: Random) -> tuple[str, ...]:
    """Some that nobody would take for one another."""
    labels: dict[str, str] = {}
    for _ in range(random.randrange(1, 8)):
        label = "".join(random.choice(_LETTERS) for _ in range(random.randrange(1, 7))).strip()
        if any(unicodedata.category(c)[0] in "LNS" for c in label):
            labels.setdefault(normal_form(label), label)
    return tuple(labels.values()) or ("a",)


def every_spelling(random: Random) -> None:
    """A token's name, in another case and composition and in any spelling, is that token; so is a label for ``select`` and ``rename``."""
    labels = _labels(random)
    names = safe_names(labels)
    for index, (label, name) in enumerate(zip(labels, names, strict=True)):
        for same in _same(random, label):
            assert find_class(same, labels, names) == index, (same, labels)
        for same in _same(random, name):
            spelling, around = random.choice(_SPELLINGS), random.choice(_AROUND)
            prompt = around.replace("%s", spelling.replace("%s", same))
            found = [piece for piece, _ in parse_prompt(prompt, names, labels) if isinstance(piece, int)]
            assert found == [index] * around.count("%s"), (prompt, names, labels, found)


def _same(random: Random, text: str) -> list[str]:
    return [unicodedata.normalize(form, text) for form in ("NFC", "NFD")] + [
        random.choice((text.casefold(), text.lower()))
    ]


def any_prompt(random: Random) -> None:
    """Anything: pieces of the prompt, or a sentence."""
    labels = _labels(random)
    names = safe_names(labels)
    pieces = (*_SIGNS, *_SIGNS, *_LETTERS, *TEXTS, *labels, *names)
    prompt = "".join(random.choice(pieces) for _ in range(random.choice((1, 3, 8, 20, 60))))
    if random.random() < 0.05:
        prompt = (random.choice(pieces) + random.choice(pieces))[:40] * random.choice((60, 1000, 2500, 30_000))
    known = known_forms(labels, names)
    reference = reference_at(unicodedata.normalize("NFC", prompt[:5000]), 0, labels, names, known)
    assert 0 <= reference.end <= len(unicodedata.normalize("NFC", prompt))
    nearest(reference.name, known)
    for piece, weight in parse_prompt(prompt, names, labels):
        assert math.isfinite(weight)
        assert piece in range(len(labels)) if isinstance(piece, int) else not any(ord(c) >= 0xF0000 for c in piece)
