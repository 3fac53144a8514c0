"""Example folders as people and systems leave them, and properties of reading them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.example_files import find_class_folders
from mcti_core.data.image_stream import find_image_paths
from mcti_core.errors import ExamplesError
from mcti_core.files.provenance import is_marked

__all__ = ["check_folder", "make_folder", "make_irregular"]

_CLASSES = (
    "cat",
    "my dog",
    "10_cat",
    "3_dog",
    "é 猫",
    "@eaDir",
    "__MACOSX",
    ".git",
    "train",
    "x.jpg",
    "#recycle",
    "generated",
    "learned",
    "..x",
    "a\nb",
)
_STEMS = ("0", "IMG_0001", "loss", "é", "a b", ".hidden", "._0", "thumbs", "-", "x\x1b[31m")
_SUFFIXES = (
    "", ".png", ".JPG", ".jpeg", ".jfif", ".webp", ".gif", ".tif", ".heic", ".avif", ".jxl", ".cr2", ".mov", ".txt", ".db", ".png (1)", ".jpg_large",
    ".safetensors", ".json", ".",
)  # fmt: skip
_MARKED = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + bytes(17) + b"\0\0\0\x0etEXtSoftware\0MC-TI"


def make_irregular(random: Random, path: Path) -> None:
    """Something at ``path`` that is no file: a link that leads nowhere or to itself or to a device, a pipe, a folder."""
    kind = random.randrange(5)
    if kind == 0 and hasattr(os, "mkfifo"):
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    else:
        path.symlink_to((path, path.with_name("nowhere"), Path("/dev/zero"))[kind - 2])


def make_folder(random: Random, folder: Path, images: Sequence[bytes], levels: int = 2) -> None:
    """Files and folders of any kind, ``levels`` deep."""
    for _ in range(random.choice((0, 3, 6) if levels < 2 else (0, 1))):
        path = folder / (random.choice(_STEMS) + random.choice((*_SUFFIXES, *[".png"] * 20)))
        if os.path.lexists(path):
            continue
        if random.random() < 0.05:
            make_irregular(random, path)
        else:
            path.write_bytes(random.choice((*random.choices(images, k=3), b"", random.randbytes(70), _MARKED)))
    for _ in range(random.choice((0, 2, 3) if levels < 2 else (2, 3, 5)) if levels else 0):
        path = folder / random.choice(_CLASSES)
        if not os.path.lexists(path):
            path.mkdir()
            make_folder(random, path, images, levels - 1)


def check_folder(folder: Path) -> str:
    """What is wrong with how a folder is read; empty where the law holds.

    Each file in a class folder is used, or counted, or hidden, or one that systems make; none that this program wrote is used; what is
    told is one line, and everything is read, or named in one error.
    """
    try:
        classes, skipped = find_class_folders(folder)
    except ExamplesError:
        return ""
    there = used = 0
    for label, images in classes:
        within = images[0].parent
        visible = [name for name in os.listdir(within) if not name.startswith(".") and name.lower() != "thumbs.db"]
        there += sum(not os.path.isdir(within / name) for name in visible)
        used += len(images)
        if any(path.suffix == ".png" and is_marked(path) for path in images):
            return f"{label!r} has images that this program wrote"
    counted = sum(count for (kind, _), count in skipped.counts.items() if "file" in kind)
    if used + counted < there:
        return f"{there} files, {used} used, {counted} counted"
    names = find_image_paths([folder], recursive=True) if used else None
    if names is not None and len(names) < used:
        return f"{used} images to learn from, {len(names)} to classify"
    try:
        dataset = FewShotDataset.from_folder(folder, min_classes=1)
        list(dataset.load(8))
    except ExamplesError:
        return ""
    return ""
