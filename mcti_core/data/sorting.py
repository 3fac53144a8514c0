"""Names for sorted images: a folder per label that cannot lead anywhere else, and file names that are free."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..escaping import UNSEEN
from ..tokens.names import DEVICES, MAX_NAME_BYTES, normal_form, safe_names
from ..tokens.token_set import UNKNOWN
from .example_files import is_system_folder

__all__ = ["class_folders", "free_targets"]


def class_folders(labels: Sequence[str]) -> tuple[str, ...]:
    """A folder's name for each label: the label where every system can have it, otherwise a safe name. All are different."""
    names = safe_names(labels)
    folders = tuple(label if _is_plain(label) else name for label, name in zip(labels, names, strict=True))
    return folders if len({normal_form(folder) for folder in folders}) == len(labels) else names


def free_targets(sources: Iterable[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """New path of each file in its folder: ``a.png`` becomes ``a-2.png`` if there is one, or a caption ``a.txt``.

    A caption beside an image goes with it. Files that are in their folder already are left out.
    """
    pairs, used_forms, numbers = list[tuple[Path, Path]](), set[str](), dict[Path, int]()
    for source, folder in sources:
        if os.path.realpath(source.parent) == os.path.realpath(folder):
            continue
        number = numbers.get(target := folder / source.name, 1)
        while any(os.path.lexists(path) or normal_form(str(path)) in used_forms for path in _with_caption(target)):
            number += 1
            target = folder / f"{source.stem}-{number}{source.suffix}"
        numbers[folder / source.name] = number  # of very many files of one name, the next need not try them all
        used_forms |= {normal_form(str(path)) for path in _with_caption(target)}
        pairs.append((source, target))
        if (caption := source.with_suffix(".txt")).is_file() and not caption.is_symlink():
            pairs.append((caption, target.with_suffix(".txt")))
    return pairs


def _with_caption(image: Path) -> tuple[Path, Path]:
    return image, image.with_suffix(".txt")


def _is_plain(label: str) -> bool:
    return (
        label.isprintable()
        and UNSEEN.isdisjoint(label)
        and not set(label) & set('<>:"/\\|?*')
        and 0 < len(label.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES
        and label == label.strip(" .")
        and label.split(".")[0].strip().upper() not in DEVICES
        and not is_system_folder(label)
        and label != UNKNOWN
    )
