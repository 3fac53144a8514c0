"""Token names that are safe in a prompt, in any file system and in a line of text; and how names are compared."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

from ..errors import TokenError, listed
from ..escaping import UNSEEN, escaped

__all__ = [
    "DEVICES", "MAX_NAME_BYTES", "check_name", "describe_words", "find_class", "find_classes", "index_of",
    "label_of_folder", "normal_form", "safe_names", "safe_parts", "words_among",
]  # fmt: skip

MAX_NAME_BYTES = 120
"""Maximum length in UTF-8; with a number and a suffix, a name stays below the 255 bytes of common file systems."""
DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "123456789¹²³")})
"""Names that Windows reserves, with any suffix."""
_NAME_BYTES = 96
_MAX_LEVELS = 8
_SELECTORS = {chr(c) for c in (*range(0x180B, 0x180E), 0x180F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))}
"""Variation selectors. Two names that differ in one look the same, so no name is made with one; sets that have them are read."""


def check_name(name: str) -> str:
    """Return the name if it is safe: letters of any script with their marks, digits, ``-``, ``_``, and ``.`` inside.

    Every name of a ``TokenSet`` passes through this function, whether it comes from a file, a graph or a caller.

    Raises:
        TokenError: the name contains anything else (a separator, a space, a control character), begins or ends with a full
            stop, is reserved by Windows for a device, is empty, or has more than ``MAX_NAME_BYTES`` bytes.
    """
    wrong = _wrong(name)
    if wrong:
        raise TokenError(
            f"the token name {escaped(repr(name[:80]) if isinstance(name, str) else type(name).__name__)} {wrong}; "
            "use letters, digits, '-', '_' and '.'"
        )
    return name


def _wrong(name: str) -> str:
    if not isinstance(name, str):
        return "is not a text"
    if not name:
        return "is empty"
    if len(name) > MAX_NAME_BYTES or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    if any(unicodedata.category(c)[0] not in "LMN" and c not in "-_." for c in name):
        return "contains other characters"
    if not UNSEEN.isdisjoint(name):
        return "contains invisible characters"
    if name[0] == "." or name[-1] == "." or ".." in name:
        return "begins or ends with a full stop, or contains two in a row"
    return "is reserved by Windows for a device" if name.split(".")[0].upper() in DEVICES else ""


def normal_form(text: str) -> str:
    """The form in which names and labels are compared everywhere: composed letters (NFC), and no case.

    Systems store the same name in different ways: a Mac writes é as two code points, most others as one.

    >>> normal_form("Cafe\\u0301") == normal_form("CAFÉ")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def index_of(reference: str, texts: Sequence[str]) -> int | None:
    """Index of a text among others, preferably an exact match, otherwise in normal form; None without a match."""
    return next(iter(_indices_of(reference, texts)), None)


def _indices_of(reference: str, texts: Sequence[str]) -> list[int]:
    if exact := [index for index, text in enumerate(texts) if text == reference]:
        return exact
    return list(_by_form(tuple(texts)).get(normal_form(reference), ()))


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


def find_class(reference: str, labels: Sequence[str], names: Sequence[str]) -> int | None:
    """Index of the class of a label or a token name, also with other separators, as ``my_cat`` for ``my cat``; or None."""
    return next(iter(find_classes(reference, labels, names)), None)


def find_classes(reference: str, labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """``find_class`` for several sets that may share a label: all equally good matches."""
    for text in (reference, reference.strip()):
        for known in (labels, names):
            if found := _indices_of(text, known):
                return found
    return _indices_of(safe_names([reference])[0], names) if reference.strip() else []


def safe_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Names that prompt parsers and file systems accept: letters, digits and ``-``, unique also in lower case.

    >>> safe_names(["my cat", "My (cat)", "猫", "!"])
    ('my-cat', 'My-cat-2', '猫', 'exclamation-mark')
    """
    used_forms: set[str] = set()
    counts: dict[str, int] = {}
    names = []
    for label in labels:
        cleaned = name = _cleaned(label)
        while normal_form(name) in used_forms:
            counts[cleaned] = counts.get(cleaned, 1) + 1
            name = f"{cleaned}-{counts[cleaned]}"
        used_forms.add(normal_form(name))
        names.append(name)
    return tuple(names)


def safe_parts(name: str) -> list[str]:
    """Split a name with slashes into folders and file, each a plain name: none leads up or out.

    Raises:
        TokenError: no part can be a name, or it has more than ``_MAX_LEVELS`` parts.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part.strip(". ")]
    if not parts:
        raise TokenError(f"the name {name!r:.200} cannot be a file's; use letters and digits")
    if len(parts) > _MAX_LEVELS:
        raise TokenError(f"the name has {len(parts)} levels of folders; at most {_MAX_LEVELS} are allowed")
    return [safe_names([part])[0] for part in parts]


def _cleaned(label: str) -> str:
    """Letters, their marks and digits, with one ``-`` for everything between them; short enough for any file system."""
    characters = (
        c if unicodedata.category(c)[0] in "LMN" and c not in UNSEEN else " "
        for c in unicodedata.normalize("NFC", label)
        if c not in _SELECTORS
    )
    name = "-".join("".join(characters).split())
    if not any(unicodedata.category(c)[0] in "LN" for c in name):
        name = _spelled(label)
    name = _shortened(name.strip("-")) or "token"
    return f"{name}-token" if name.upper() in DEVICES else name


def _spelled(label: str) -> str:
    """A label without letters by the Unicode names of its characters, so that such labels get different names: 🐱 is cat-face."""
    shown = [c for c in label if not c.isspace() and unicodedata.category(c) not in ("Cf", "Mn")] or label.split()
    return "-".join(unicodedata.name(c, f"u{ord(c[0]):x}").lower().replace(" ", "-") for c in "".join(shown))


def _shortened(name: str) -> str:
    """Shortened names get a hash of the removed part; otherwise two names with the same beginning would be equal."""
    if len(re.sub(r"-\d{1,7}$", "", name).encode()) <= _NAME_BYTES:  # the number that another class already has
        return name
    lost = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: _NAME_BYTES - 9].decode(errors="ignore").strip("-") + f"-{lost}"


def words_among(names: Sequence[str]) -> list[str]:
    """The token names that are exactly words of CLIP's vocabulary, in lower case, and so already name other vectors.

    >>> words_among(["cat", "my-cat", "Cat"])
    ['cat']
    """
    return [name for name in names if name in _words()]


def describe_words(names: Sequence[str], remedy: str) -> str:
    """A message that lists those words, what they break and what to do; empty if there are none."""
    if not (words := words_among(names)):
        return ""
    return f"{listed(words)}: words of CLIP's vocabulary, by which kohya's gen_img, SD.Next and diffusers cannot load an embedding; {remedy}"


@cache
def _words() -> frozenset[str]:
    """The vocabulary's entries of ASCII letters, digits, - and _ that do not end a word; from openai/CLIP (MIT licence).

    And the single characters by which a byte-level vocabulary writes bytes that are no ASCII letters, such as "ä".
    """
    words = Path(__file__).with_name("clip_words.txt").read_text(encoding="ascii").split()
    return frozenset([*words, *map(chr, range(0xA1, 0x144))])
