"""Which token names are safe: in a prompt, in a file name on any system, and in a line of text."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from ..errors import TokenError
from ..escaping import escaped
from .normal_form import indices_of, normal_form

__all__ = ["DEVICES", "MAX_NAME_BYTES", "check_name", "find_class", "find_classes", "safe_names", "safe_parts"]

MAX_NAME_BYTES = 120
"""In UTF-8; with a number and a suffix behind it, a name stays below the 255 bytes of common file systems."""
DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "123456789¹²³")})
"""Windows gives no file such a name, whatever its suffix."""
_NAME_BYTES = 96
_MAX_LEVELS = 8


def check_name(name: str) -> str:
    """The name itself, if it is safe: letters of any script with their marks, digits, and ``-``, ``_`` and ``.`` inside.

    This is the one place that decides. Every name of a ``TokenSet`` passes through it, whether it comes from a file, a
    graph or a caller.

    Raises:
        TokenError: the name holds anything else (a separator, a space, a control character), begins or ends with a full
            stop, is kept by Windows for a device, is empty, or has more than ``MAX_NAME_BYTES`` bytes.
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
        return "is no text"
    if not name:
        return "is empty"
    if len(name) > MAX_NAME_BYTES or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    if any(unicodedata.category(c)[0] not in "LMN" and c not in "-_." for c in name):
        return "holds other characters"
    if name[0] == "." or name[-1] == "." or ".." in name:
        return "begins or ends with a full stop, or holds two in a row"
    return "is kept by Windows for a device" if name.split(".")[0].upper() in DEVICES else ""


def find_class(wanted: str, labels: Sequence[str], names: Sequence[str]) -> int | None:
    """Which class a label or a token name means, also one with other separators, such as ``my_cat`` for ``my cat``.

    Returns:
        Its index, or None.
    """
    return next(iter(find_classes(wanted, labels, names)), None)


def find_classes(wanted: str, labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """``find_class`` where classes of several sets may share a label: all that it means equally well."""

    for text in (wanted, wanted.strip()):
        for known in (labels, names):
            if found := indices_of(text, known):
                return found
    return indices_of(safe_names([wanted])[0], names) if wanted.strip() else []


def safe_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Names that prompt parsers and file systems take: letters, digits and ``-``, unique also in lower case.

    >>> safe_names(["my cat", "My (cat)", "猫", "!"])
    ('my-cat', 'My-cat-2', '猫', 'exclamation-mark')
    """
    taken: set[str] = set()
    counts: dict[str, int] = {}
    names = []
    for label in labels:
        cleaned = name = _cleaned(label)
        while normal_form(name) in taken:
            counts[cleaned] = counts.get(cleaned, 1) + 1
            name = f"{cleaned}-{counts[cleaned]}"
        taken.add(normal_form(name))
        names.append(name)
    return tuple(names)


def safe_parts(name: str) -> list[str]:
    """Folders and file that a name with slashes stands for, each a plain name: none of them leads up or out.

    Raises:
        TokenError: nothing of it can be a name, or it has more than ``_MAX_LEVELS`` parts.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part.strip(". ")]
    if not parts:
        raise TokenError(f"the name {name!r:.200} cannot be a file's; use letters and digits")
    if len(parts) > _MAX_LEVELS:
        raise TokenError(
            f"the name holds {len(parts)} folders and files; at most {_MAX_LEVELS} are made in one another"
        )
    return [safe_names([part])[0] for part in parts]


def _cleaned(label: str) -> str:
    """Letters, their marks and digits, what lies between them as one ``-``; short enough for any file system."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in unicodedata.normalize("NFC", label))
    name = "-".join("".join(kept).split())
    if not any(unicodedata.category(c)[0] in "LN" for c in name):
        name = _spelled(label)
    name = _shortened(name.strip("-")) or "token"
    return f"{name}-token" if name.upper() in DEVICES else name


def _spelled(label: str) -> str:
    """A label without a letter by what Unicode calls its characters, so that two such labels have two names: 🐱 is cat-face."""
    shown = [c for c in label if not c.isspace() and unicodedata.category(c) not in ("Cf", "Mn")] or label.split()
    return "-".join(unicodedata.name(c, f"u{ord(c[0]):x}").lower().replace(" ", "-") for c in "".join(shown))


def _shortened(name: str) -> str:
    """Names that are cut keep a hash of what is lost, or two with one beginning would be the same."""
    if len(re.sub(r"-\d{1,7}$", "", name).encode()) <= _NAME_BYTES:  # the number of one that another class has
        return name
    lost = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: _NAME_BYTES - 9].decode(errors="ignore").strip("-") + f"-{lost}"
