"""One record as one line of JSON, for files and for terminals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..escaping import escaped

__all__ = ["json_line"]


def json_line(record: Mapping[str, Any], encoding: str = "utf-8") -> str:
    r"""A record as one line of JSON that this encoding can hold.

    Letters stay as they are if all can be written, else all but ASCII is escaped. Characters that ``escaping`` knows are escaped in any
    case, such as a byte 0xE9 of a file's name that is not valid UTF-8 as ``\udce9``. Reading gives the same record.

    Raises:
        ValueError: a number that JSON has no word for (NaN or infinite).
    """
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    if escaped(text) != text:  # such characters stand inside strings only, and have four digits
        text = "".join(c if escaped(c) == c else f"\\u{ord(c):04x}" for c in text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(record, allow_nan=False)
    return text
