"""The benchmark's results file: validated when read, saved after every cell, merged from several processes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import FileError, ResumeError
from ..files.provenance import is_marked, write_json
from ..files.writing import delete_own, parts_of
from ..training.resume import describe_differences
from .cells import RUNS, Cell

__all__ = ["Figures", "Results", "merge_parts", "read_results"]

_MAX_BYTES = 2**26
_MAX_COUNT = 10**9
"""Largest count of images or classes."""
_MAX_SHOTS = 1000
"""Maximum number of different numbers of shots."""
_FACTS = {"classes", "classes_in_all", "test_images", "test_images_in_all", "own_test", "training_images"}
"""The facts of a data set that the report shows."""


@dataclass
class Results:
    """Figures with the settings, versions and data sets behind them; plain JSON values only."""

    settings: dict[str, str]
    """Settings that must be equal to resume."""
    versions: dict[str, str] = field(default_factory=dict)
    data: dict[str, dict[str, int]] = field(default_factory=dict)
    """``Task.facts`` by data set."""
    missing: dict[str, str] = field(default_factory=dict)
    """Reasons for data sets that are left out."""
    cells: list[dict[str, Any]] = field(default_factory=list)
    """Results of ``cells.measure``."""

    def done(self) -> list[Cell]:
        return [Cell(*(cell[each.name] for each in fields(Cell))) for cell in self.cells]

    def save(self, path: Path) -> None:
        write_json(asdict(self), path)


class Figures:
    """The figures of cells, found by data set and number of shots."""

    def __init__(self, cells: Iterable[dict[str, Any]]):
        self._cells: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for cell in cells:
            self._cells.setdefault((cell["data"], cell["shots"]), []).append(cell)

    @property
    def shots(self) -> list[int]:
        """Numbers of shots, ascending, without the 0 of ``reference``."""
        return sorted({shots for _, shots in self._cells} - {0})

    def has(self, data: str, shots: int) -> bool:
        return (data, shots) in self._cells

    def values(self, data: str, shots: int, method: str, measure: str = "accuracy") -> dict[int, float]:
        """Values by seed. The figures of ``reference``, saved as 0 shots, are those of any number of shots."""
        cells = [cell for count in {0, shots} for cell in self._cells.get((data, count), ())]
        return {c["seed"]: c["figures"][method][measure] for c in cells if measure in c["figures"].get(method, {})}


def read_results(path: Path) -> Results:
    """Read a file that ``Results.save`` wrote.

    Raises:
        FileError: the file is missing, too large, of another kind, or has invalid values.
    """
    try:
        if not is_marked(path) or path.stat().st_size > _MAX_BYTES:
            raise ValueError("this program did not write it")
        content = json.loads(path.read_text(encoding="utf-8"))
        results = Results(**{each.name: content[each.name] for each in fields(Results)})
        if not _is_valid(results):
            raise ValueError("it has values that a benchmark does not write")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"{path} is not a benchmark's results ({error!s:.200}); choose another file") from error
    return results


def merge_parts(path: Path, results: Results) -> None:
    """Merge the saved cells of all processes into ``results`` and into one file. Only for the main process, between barriers.

    Raises:
        ResumeError: a file has other settings.
        FileError: as ``read_results``.
    """
    for file in [*[path] * path.exists(), *parts_of(path)]:
        saved = read_results(file)
        if differences := describe_differences(saved.settings, results.settings):
            raise ResumeError(
                f"{file} has other settings ({differences}); give the same ones, another --output-dir, or --restart"
            )
        results.data = saved.data | results.data
        done = set(results.done())
        results.cells += [cell for cell, key in zip(saved.cells, saved.done(), strict=True) if key not in done]
    results.save(path)
    for file in parts_of(path):
        delete_own(file, is_marked)


def _is_valid(results: Results) -> bool:
    """Whether all values have the types and ranges that a run writes. Missing keys and wrong containers raise here."""
    mappings = (results.settings, results.versions, results.missing)
    texts = [text for each in mappings for pair in each.items() for text in pair]
    texts += [cell["data"] for cell in results.cells]
    counts = [number for facts in results.data.values() for number in facts.values()]
    counts += [cell["shots"] for cell in results.cells]
    seeds = [cell["seed"] for cell in results.cells]
    figures = [value for cell in results.cells for measures in cell["figures"].values() for value in measures.values()]
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int) and 0 <= number <= _MAX_COUNT for number in counts)
        and len({cell["shots"] for cell in results.cells}) <= _MAX_SHOTS
        and all(isinstance(seed, int) and 0 <= seed < 2**63 for seed in seeds)
        and all(isinstance(value, (int, float)) and abs(value) <= _MAX_COUNT for value in figures)
        and all(facts.keys() >= _FACTS and facts["classes"] for facts in results.data.values())
        and all(cell["run"] in RUNS and cell["data"] in results.data for cell in results.cells)
    )
