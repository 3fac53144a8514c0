"""CSV output of ``mcti classify``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["is_answer_table", "write_answer_table"]

_COLUMNS = ("image", "label", "confidence", "index", "unknown", "error")


def write_answer_table(records: Iterable[Mapping[str, Any]], top: int, path: Path) -> None:
    """Write one row per image: the prediction, then the next best classes with their confidences, ``top`` in total.

    Raises:
        FileError: a foreign file is there.
    """
    from ..data.label_table import csv_lines
    from ..files.writing import write_own

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
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.readline(64)
    return re.match(",".join(_COLUMNS) + r"(,label_2,|\r\n)", head.decode(errors="replace")) is not None
