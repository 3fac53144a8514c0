"""One record as one line of JSON, for files and for terminals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..escaping import escaped

__all__ = ["json_line"]


def json_line(record: Mapping[str, Any], encoding: str = "utf-8") -> str:
    r"""A record as one line of JSON in this encoding.

    Letters are kept if the encoding has all of them; otherwise everything but ASCII is escaped. Characters that ``escaping`` lists are
    always escaped, for example a byte 0xE9 in a file name that is not valid UTF-8, as ``\udce9``. Reading gives the same record.

    Raises:
        ValueError: a number that JSON cannot express (NaN or infinite).
    """
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    if escaped(text) != text:  # they occur only inside strings, and have four digits
        text = "".join(c if escaped(c) == c else f"\\u{ord(c):04x}" for c in text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(record, allow_nan=False)
    return text
