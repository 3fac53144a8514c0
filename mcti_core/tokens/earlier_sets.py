"""Token files of an earlier set: refuse to replace those of another set, and find embeddings that stay beside new ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import FileError, TokenError, listed
from ..files.limits import check_counts
from ..files.safe_load import header_of
from .encoders import encoder_named
from .io import SUFFIX, is_own_file
from .names import normal_form
from .token_set import TokenSet

__all__ = ["refuse_other_sets", "stale_embeddings"]


def refuse_other_sets(paths: Iterable[Path], tokens: TokenSet) -> None:
    """Refuse to replace files of another set: those that exist must be of an earlier training of the same classes, or of
    fewer, with the same text encoders.

    Args:
        paths: of token sets and embeddings.
        tokens: the set that is to be written there.

    Raises:
        FileError: a file of another set would be lost.
    """
    own_widths = {name: vectors.shape[-1] for name, vectors in tokens.vectors.items()}
    own_labels = set(map(normal_form, tokens.labels))
    for path in paths:
        header = header_of(path) if is_own_file(path) else {}
        try:
            values = {key: json.loads(header["__metadata__"][key]) for key in ("labels", "encoders")}
            labels, widths = list(values["labels"]), _widths(values["encoders"], header)
            check_counts(labels, ())
            is_earlier = widths == own_widths and set(map(normal_form, labels)) <= own_labels
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError, TokenError):
            continue  # no file, damaged, or from before files recorded their set
        if not is_earlier:
            encoders = ", ".join(f"{name} {width} wide" for name, width in widths.items())
            raise FileError(
                f"{path} belongs to another token set ({listed(labels)}; {encoders}); choose another name or folder, or move it away"
            )


def _widths(encoders: Sequence[str], header: dict[str, Any]) -> dict[str, Any]:
    """Widths by encoder; an embedding of one encoder has a single tensor of any name."""
    shapes = {encoder_named(key) or key: value["shape"] for key, value in header.items() if key != "__metadata__"}
    if len(encoders) == len(shapes) == 1:
        shapes = dict(zip(encoders, shapes.values(), strict=True))
    return {name: shapes[name][-1] for name in encoders}


def stale_embeddings(folder: Path, names: Iterable[str]) -> list[str]:
    """Names of embeddings that an earlier run left in the folder: those of MC-TI under other names, sorted."""
    file_names = {f"{name}{SUFFIX}" for name in names}
    if not folder.is_dir():
        return []
    return sorted(path.stem for path in folder.glob(f"*{SUFFIX}") if path.name not in file_names and is_own_file(path))
