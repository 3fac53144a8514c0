"""The benchmark's results file: checked when it is read, kept after every cell, merged from several processes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import FileError, ResumeError
from ..files.ownership import delete_own
from ..files.provenance import is_marked, write_json
from ..training.resume import describe_differences
from .cells import RUNS, Cell

__all__ = ["Results", "merge_parts", "part_path", "parts_of", "read_results"]

_LARGEST = 2**26
"""Bytes of a file that is read."""


@dataclass
class Results:
    """What was measured, and of what. Plain values only, since it is a file."""

    settings: dict[str, str]
    """Of two results that differ here, neither is continued with the other."""
    versions: dict[str, str] = field(default_factory=dict)
    data: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of every data set, ``Task.facts``."""
    missing: dict[str, str] = field(default_factory=dict)
    """Data set -> why it was left out."""
    cells: list[dict[str, Any]] = field(default_factory=list)
    """As ``cells.measure`` returns them."""

    def done(self) -> list[Cell]:
        return [Cell(*(cell[each.name] for each in fields(Cell))) for cell in self.cells]

    def save(self, path: Path) -> None:
        write_json(asdict(self), path)

    def values(self, data: str, shots: int, method: str, measure: str = "accuracy") -> dict[int, float]:
        """Seed -> value."""
        there = [cell for cell in self.cells if (cell["data"], cell["shots"]) == (data, shots)]
        found = [(cell["seed"], cell["figures"].get(method, {}).get(measure)) for cell in there]
        return {seed: value for seed, value in found if value is not None}


def read_results(path: Path) -> Results:
    """Read a file that ``Results.save`` wrote.

    Raises:
        FileError: it is missing, too large, not such a file, or holds values of other kinds.
    """
    try:
        if not is_marked(path) or path.stat().st_size > _LARGEST:
            raise ValueError("this program did not write it")
        content = json.loads(path.read_text(encoding="utf-8"))
        found = Results(**{each.name: content[each.name] for each in fields(Results)})
        if not _is_fine(found):
            raise ValueError("it holds other values than a benchmark writes")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"{path} is not a benchmark's results ({error!s:.200}); choose another file") from error
    return found


def merge_parts(path: Path, results: Results) -> None:
    """Take over what is kept, the files of other processes too. For the first process, while the others wait.

    Raises:
        ResumeError: the files are of a run with other settings.
        FileError: as ``read_results``.
    """
    for file in [*[path] * path.exists(), *parts_of(path)]:
        earlier = read_results(file)
        if told := describe_differences(earlier.settings, results.settings):
            raise ResumeError(f"{file} has other settings ({told}); give the same ones, another --out, or --restart")
        results.data = earlier.data | results.data
        done = set(results.done())
        results.cells += [cell for cell, key in zip(earlier.cells, earlier.done(), strict=True) if key not in done]
    results.save(path)
    for file in parts_of(path):
        delete_own(file, is_marked)


def part_path(path: Path, process: int) -> Path:
    """The file that a process writes; the first one writes the results themselves."""
    return path.with_name(f"{path.stem}.part-{process:05d}.json") if process else path


def parts_of(path: Path) -> list[Path]:
    """The other processes' files."""
    return sorted(path.parent.glob(f"{path.stem}.part-" + "[0-9]" * 5 + ".json"))


def _is_fine(found: Results) -> bool:
    """Whether all values are such as a run writes. What has other keys or no mappings raises here."""
    texts = [t for each in (found.settings, found.versions, found.missing) for pair in each.items() for t in pair]
    figures = [value for cell in found.cells for measures in cell["figures"].values() for value in measures.values()]
    numbers = [number for facts in found.data.values() for number in facts.values()]
    numbers += [cell[name] for cell in found.cells for name in ("shots", "seed")]
    return (
        all(isinstance(text, str) for text in (*texts, *(cell["data"] for cell in found.cells)))
        and all(isinstance(number, int) and number >= 0 for number in numbers)
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in figures)
        and all(cell["run"] in RUNS and cell["data"] in found.data for cell in found.cells)
    )
