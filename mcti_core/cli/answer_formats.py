"""One answer of ``mcti classify`` as a line of JSON, and all answers as a CSV table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..data.label_table import csv_lines
from ..escaping import escaped
from ..files.regular import read_start
from ..files.writing import write_own

__all__ = ["is_answer_table", "json_line", "write_answer_table"]

_COLUMNS = ("image", "label", "confidence", "index", "unknown", "error")


def json_line(record: Mapping[str, Any], encoding: str = "utf-8") -> str:
    r"""A record as one line of JSON in this encoding.

    Letters are kept if the encoding has all of them; otherwise everything but ASCII is escaped. Characters that ``escaping`` lists are
    always escaped, for example a byte 0xE9 in a file name that is not valid UTF-8, as ``\udce9``. Reading gives the same record.

    Raises:
        ValueError: a number that JSON cannot express (NaN or infinite).
    """
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    if escaped(text) != text:  # such characters occur only inside strings
        text = "".join(c if escaped(c) == c else json.dumps(c)[1:-1] for c in text).replace("\x7f", "\\u007f")
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(record, allow_nan=False)
    return text


def write_answer_table(records: Iterable[Mapping[str, Any]], top: int, path: Path) -> None:
    """Write one row per image: the prediction, then the next best classes with their confidences, ``top`` in total.

    Raises:
        FileError: a foreign file is there.
    """

    def write(file: Path) -> None:
        more = [f"{name}_{place}" for place in range(2, top + 1) for name in ("label", "confidence")]
        with open(file, "w", encoding="utf-8", newline="") as lines:
            lines.write(csv_lines([[*_COLUMNS, *more]]))
            for record in records:
                rest = [each[name] for each in record.get("top", ())[1:] for name in ("label", "confidence")]
                lines.write(csv_lines([[*(record.get(name, "") for name in _COLUMNS), *rest]]))

    write_own(path, write, is_answer_table)


def is_answer_table(path: Path) -> bool:
    """Whether a file begins with the header of this table."""
    header = rb"%s(,label_2,|\r\n)" % ",".join(_COLUMNS).encode()
    return path.is_file() and re.match(header, read_start(path, 64)) is not None
