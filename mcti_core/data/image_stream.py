"""Stream millions of images: only their names stay in memory, and pixels are prefetched for the model."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from ..errors import ExamplesError
from .example_files import Skipped, is_system_folder, list_folder

__all__ = ["ImagePaths", "default_num_workers", "find_image_paths", "read_ahead"]

_T = TypeVar("_T")
_MAX_WORKERS = 8


@dataclass(frozen=True)
class ImagePaths:
    """The paths of very many images, stored as (folder, names in it) and joined on access."""

    folders: tuple[tuple[str, list[str]], ...]
    skipped: str = ""
    """One line about unused files in the folders, with reasons; empty without such files."""

    def __len__(self) -> int:
        return sum(len(names) for _, names in self.folders)

    def __iter__(self) -> Iterator[str]:
        return (os.path.join(folder, name) for folder, names in self.folders for name in names)

    def fingerprint(self) -> str:
        """Hexadecimal hash of names and order, without pixels."""
        digest = hashlib.sha256()
        for path in self:
            digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()


def find_image_paths(paths: Iterable[str | Path], *, recursive: bool = False) -> ImagePaths:
    """Image files in the given order, and images in folders, sorted by name, without hidden ones.

    Args:
        recursive: include subfolders; each is read once, even if several links lead to it.

    Raises:
        ExamplesError: a missing path, an unreadable folder, or no images.
    """
    given, skipped, seen = list(map(str, paths)), Skipped(), set[tuple[int, int]]()
    found = list[tuple[str, list[str]]]()
    for path in given:
        if not os.path.exists(path):
            raise ExamplesError(f"there is no image or folder {path}")
        folder = "" if path == "." else path
        found += _in_folder(folder, recursive, skipped, seen) if os.path.isdir(path) else [("", [path])]
    images = ImagePaths(tuple(found), skipped.report())
    if not len(images):
        hint = "" if recursive or images.skipped else "; --recursive includes those in subfolders"
        raise ExamplesError(f"no images in {', '.join(given)}{f' ({images.skipped})' * bool(images.skipped)}{hint}")
    return images


def _in_folder(
    folder: str, recursive: bool, skipped: Skipped, seen: set[tuple[int, int]]
) -> Iterator[tuple[str, list[str]]]:
    waiting = [folder]
    while waiting:  # folders can be nested a thousand deep, more than Python's stack
        folder, deeper = waiting.pop(), list[str]()
        try:
            status = os.stat(folder or ".")
        except OSError as error:  # it was there a moment ago
            raise ExamplesError(f"the folder {folder} cannot be read ({error.strerror}); try again") from error
        if (status.st_dev, status.st_ino) in seen:  # a link may lead back to its own folder
            skipped.add("folder", "read already under another name", folder)
            continue
        seen.add((status.st_dev, status.st_ino))
        names, inner = list_folder(folder, skipped, generated=True)
        yield folder, names
        for name in inner:
            path = os.path.join(folder, name)
            if recursive and not is_system_folder(name):
                deeper.append(path)
            else:
                reason = "system folder" if is_system_folder(name) else "--recursive includes images in folders"
                skipped.add("folder", reason, path)
        waiting += reversed(deeper)


def read_ahead(
    items: Iterable[_T], size: int, read: Callable[[_T], Tensor], num_workers: int
) -> Generator[list[tuple[_T, Tensor | ExamplesError]], None, None]:
    """Batches of items in order, each item with the result of ``read`` or its ``ExamplesError``; the next batch is prefetched.

    At most two batches are in memory, even with a slow consumer. Close the generator to end its threads early.

    Args:
        size: items per batch; the last batch may have fewer.
        num_workers: number of threads. Pillow and PyTorch release the GIL while they work.
    """

    def tried(item: _T) -> Tensor | ExamplesError:
        try:
            return read(item)
        except ExamplesError as error:
            return error

    items, waiting = iter(items), deque[list[tuple[_T, Future[Tensor | ExamplesError]]]]()
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="mcti-reader")
    try:
        while (batch := list(islice(items, size))) or waiting:
            if batch:
                waiting.append([(item, pool.submit(tried, item)) for item in batch])
            if not batch or len(waiting) > 1:
                yield [(item, image.result()) for item, image in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def default_num_workers(processes: int = 1) -> int:
    """Number of threads that prefetch images: the cores of this machine per process on it, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MAX_WORKERS, cores // processes))
