"""CSV tables of images and labels: what a spreadsheet opens, and the corrections that come back from a review."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import ExamplesError, FileError
from ..escaping import without_surrogates
from ..files.limits import MAX_LABEL
from ..files.regular import read_limited
from ..tokens.names import normal_form
from ..tokens.token_set import UNKNOWN
from .dataset import FewShotDataset

__all__ = ["FORMULA", "csv_lines", "read_corrections", "relabelled"]

_MAX_BYTES = 2**25
FORMULA = tuple("=+-@\t\r\n'\uff1d\uff0b\uff0d\uff20")
"""First characters of a spreadsheet's formula, the last four full-width. Such a text is written with an apostrophe before it, which
reading removes."""


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    r"""Rows as CSV, in UTF-8 without surrogates: of a path that is not UTF-8, a byte 0xE9 becomes ``\udce9``, and NUL ``\x00``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    for row in rows:
        cells = [_plain(cell) if isinstance(cell, str) else cell for cell in row]
        writer.writerow([f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in cells])
    return text.getvalue()


def _plain(cell: str) -> str:
    """Without surrogates, and without NUL, which Python 3.10 refuses to write."""
    return without_surrogates(cell).replace("\0", r"\x00")


def read_corrections(path: Path) -> dict[str, str]:
    """Absolute path of an image -> its right label; empty for an image of no class. Of two rows for an image, the last counts.

    Args:
        path: a CSV file with the columns ``image`` and ``label``, as the review page or a spreadsheet writes it.

    Raises:
        FileError: the file is missing, too large, or not such a table.
    """
    try:
        text = read_limited(path, _MAX_BYTES).decode("utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = ";" if ";" in first and "," not in first else ","
        return _corrections(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), path)
    except (OSError, ValueError, csv.Error) as error:
        raise FileError(f"{path} cannot be read as CSV ({error}); save it as CSV in UTF-8") from error


def _corrections(rows: Iterator[list[str]], path: Path) -> dict[str, str]:
    """The rows are read one by one, since a row of two bytes takes the memory of its columns."""
    place = {name: column for column, name in enumerate(next(rows, []))}
    found = {}
    for number, row in enumerate(filter(None, rows), 2):
        image, label = (
            row[place[name]] if place.get(name, len(row)) < len(row) else None for name in ("image", "label")
        )
        if not image or label is None or len(label) > MAX_LABEL:
            raise FileError(f"row {number} of {path} has no image or no label; the columns are image and label")
        label = "" if label == UNKNOWN else label.removeprefix("'").strip()
        found[os.path.abspath(_path(image.removeprefix("'")))] = label
    return found


def relabelled(dataset: FewShotDataset, corrections: Mapping[str, str]) -> FewShotDataset:
    """Examples with corrected labels: an image gets another class or a new one, is added, or is left out.

    Raises:
        ExamplesError: a corrected image is missing, or a class has no image left.
    """
    classes, wanted = dict[str, tuple[int, str]](), dict(corrections)
    for index, name in enumerate(dataset.classes):  # of two signs with one form, the first counts
        classes[name if (form := normal_form(name)) in classes else form] = (index, name)
    rows = list[tuple[Path | torch.Tensor, int]]()
    for image, index in zip(dataset.images, dataset.labels.tolist(), strict=True):
        label = wanted.pop(os.path.abspath(image), None) if isinstance(image, Path) else None
        if label != "":
            rows.append((image, index if label is None else _class(label, classes)))
    for path, label in wanted.items():
        if label and not os.path.isfile(path):
            raise ExamplesError(
                f"the corrected image {path} is not there; if it was sorted since, put it back with mcti undo, "
                "otherwise take its row out of the table of corrections"
            )
        if label:
            rows.append((Path(path), _class(label, classes)))
    counts = torch.bincount(torch.tensor([index for _, index in rows], dtype=torch.long), minlength=len(classes))
    left = [index for index, count in enumerate(counts.tolist()) if count]  # a class that has lost all images is none
    place, labels = {index: number for number, index in enumerate(left)}, [label for _, label in classes.values()]
    return replace(
        dataset,
        classes=tuple(labels[index] for index in left),
        images=tuple(image for image, _ in rows),
        labels=torch.tensor([place[index] for _, index in rows]),
    )


def _class(label: str, classes: dict[str, tuple[int, str]]) -> int:
    """The index of a label's normal form; a new class comes last."""
    return classes.setdefault(normal_form(label), (len(classes), label))[0]


def _path(text: str) -> str:
    """The path that ``csv_lines`` wrote."""
    if os.path.lexists(text):
        return text
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), text)
