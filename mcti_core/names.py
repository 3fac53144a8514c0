"""Which token names are safe: in a prompt, in a file name on any system, and in a line of text."""

from __future__ import annotations

import unicodedata

from .errors import TokenError
from .escaping import escaped

__all__ = ["DEVICES", "MAX_NAME_BYTES", "check_name"]

MAX_NAME_BYTES = 120
"""In UTF-8; with a number and a suffix behind it, a name stays below the 255 bytes of common file systems."""
DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "123456789¹²³")})
"""Windows gives no file such a name, whatever its suffix."""


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
