"""CSV tables of images and labels: what a spreadsheet opens, and the corrections that come back from a review."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
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
    csv.writer(text, lineterminator="\r\n").writerows(map(_cell, row) for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """A text that is no formula, and without NUL, which Python 3.10 refuses to write."""
    if not isinstance(value, str):
        return value
    text = without_surrogates(value).replace("\0", r"\x00")
    return f"'{text}" if text.startswith(FORMULA) else text


def read_corrections(path: Path) -> dict[str, str]:
    """Absolute path of an image -> its correct label, "" for no class. Of several rows for an image, the last counts.

    The table has the columns ``image`` and ``label``, as the review page or a spreadsheet writes it.

    Raises:
        FileError: the file is missing, too large, or not such a table.
    """
    corrections = {}
    try:
        text = read_limited(path, _MAX_BYTES).decode("utf-8-sig")
        first = text.partition("\n")[0]
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in first and "," not in first else ",")
        columns = {name: column for column, name in enumerate(next(rows, []))}
        for number, row in enumerate(filter(None, rows), 2):  # not csv.DictReader, whose short rows take as much memory
            places = (columns.get(name, len(row)) for name in ("image", "label"))
            image, label = (row[place] if place < len(row) else None for place in places)
            if not image or label is None or len(label) > MAX_LABEL:
                raise FileError(f"row {number} of {path} has no image or no label; the columns are image and label")
            label = "" if label == UNKNOWN else label.removeprefix("'").strip()
            corrections[os.path.abspath(_path(image.removeprefix("'")))] = label
    except (OSError, ValueError, csv.Error) as error:
        raise FileError(f"{path} cannot be read as CSV ({error}); save it as CSV in UTF-8") from error
    return corrections


def relabelled(dataset: FewShotDataset, corrections: Mapping[str, str]) -> FewShotDataset:
    """Examples with corrected labels: an image gets another class or a new one, is added, or is left out.

    Raises:
        ExamplesError: a corrected image is missing, or a class has no image left.
    """
    classes, unused = dict[str, tuple[int, str]](), dict(corrections)
    for index, name in enumerate(dataset.classes):  # of two signs with one form, the first counts
        classes[name if (form := normal_form(name)) in classes else form] = (index, name)
    rows = list[tuple[Path | torch.Tensor, int]]()
    for image, index in zip(dataset.images, dataset.labels.tolist(), strict=True):
        label = unused.pop(os.path.abspath(image), None) if isinstance(image, Path) else None
        if label != "":
            rows.append((image, index if label is None else _class(label, classes)))
    for path, label in ((path, label) for path, label in unused.items() if label):
        if not os.path.isfile(path):
            raise ExamplesError(
                f"the corrected image {path} is not there; if it was sorted since, put it back with mcti undo, "
                "otherwise take its row out of the table of corrections"
            )
        rows.append((Path(path), _class(label, classes)))
    counts = torch.bincount(torch.tensor([index for _, index in rows], dtype=torch.long), minlength=len(classes))
    nonempty = counts.nonzero()[:, 0].tolist()  # classes without images disappear
    numbers, names = {index: number for number, index in enumerate(nonempty)}, [label for _, label in classes.values()]
    labels = torch.tensor([numbers[index] for _, index in rows])
    images = tuple(image for image, _ in rows)
    return replace(dataset, classes=tuple(names[index] for index in nonempty), images=images, labels=labels)


def _class(label: str, classes: dict[str, tuple[int, str]]) -> int:
    """The index of a label's normal form; a new class comes last."""
    return classes.setdefault(normal_form(label), (len(classes), label))[0]


def _path(text: str) -> str:
    """The path that ``csv_lines`` wrote."""
    if os.path.lexists(text):
        return text
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), text)
