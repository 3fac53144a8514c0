"""Images by the million: only their names are held, and their pixels are read ahead of the model that looks at them."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from .classifiers import Classifier, Prediction, predict
from .errors import ExamplesError
from .examples import IMAGE_SUFFIXES

__all__ = ["ImageNames", "classified", "find_names", "read_ahead", "usual_readers"]

_MOST_READERS = 8
_Answered = list[tuple[str, Prediction | ExamplesError]]


@dataclass(frozen=True)
class ImageNames:
    """The paths of very many images, each made when it is asked for: (folder, names in it) of every folder."""

    folders: tuple[tuple[str, list[str]], ...]

    def __len__(self) -> int:
        return sum(len(names) for _, names in self.folders)

    def __iter__(self) -> Iterator[str]:
        for folder, names in self.folders:
            for name in names:
                yield os.path.join(folder, name)

    def batches(self, size: int, chosen: Container[int] | None = None) -> Iterator[list[str]]:
        """As many at once, the last ones fewer; or of these batches only those with the chosen numbers, in order."""
        paths, number = iter(self), 0
        while batch := list(islice(paths, size)):
            if chosen is None or number in chosen:
                yield batch
            number += 1

    def fingerprint(self) -> str:
        """Of names and order, hexadecimal; pixels are not looked at."""
        digest = hashlib.sha256()
        for path in self:
            digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()


def find_names(paths: Iterable[str | Path], *, recursive: bool = False) -> ImageNames:
    """Image files as they are given, and those in folders, sorted by name, hidden ones left out.

    Args:
        recursive: also those in the folders' folders; links to folders are not followed.

    Raises:
        ExamplesError: a path that is not there, or no images.
    """
    given, found = [str(path) for path in paths], list[tuple[str, list[str]]]()
    for path in given:
        if not os.path.exists(path):
            raise ExamplesError(f"there is no image or folder {path}")
        found += [("", [path])] if os.path.isfile(path) else list(_in_folder("" if path == "." else path, recursive))
    names = ImageNames(tuple(found))
    if not len(names):
        hint = "" if recursive else "; --recursive includes those in subfolders"
        raise ExamplesError(f"no images in {', '.join(given)}{hint}")
    return names


def _in_folder(folder: str, recursive: bool) -> Iterator[tuple[str, list[str]]]:
    names, inner = [], []
    with os.scandir(folder or ".") as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if recursive and entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                names.append(entry.name)
    names.sort()
    yield folder, names
    for name in sorted(inner):
        yield from _in_folder(os.path.join(folder, name), recursive)


def usual_readers(processes: int = 1) -> int:
    """Threads that read images: as many as this machine has cores for each of its processes, and at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_READERS, cores // processes))


def read_ahead(
    batches: Iterable[Sequence[str]], read: Callable[[str], Tensor], readers: int
) -> Iterator[list[tuple[str, Tensor | ExamplesError]]]:
    """Each batch of paths with what ``read`` gives, or its ``ExamplesError``, in order; the next batch is read meanwhile.

    No more than two batches are held, however slowly they are taken.

    Args:
        readers: threads. Pillow and PyTorch let others run while they work.
    """
    waiting: deque[list[tuple[str, Future[Tensor | ExamplesError]]]] = deque()
    pool = ThreadPoolExecutor(readers, thread_name_prefix="mcti-reader")
    try:
        for batch in batches:
            waiting.append([(path, pool.submit(_tried, read, path)) for path in batch])
            if len(waiting) > 1:
                yield [(path, image.result()) for path, image in waiting.popleft()]
        while waiting:
            yield [(path, image.result()) for path, image in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def _tried(read: Callable[[str], Tensor], path: str) -> Tensor | ExamplesError:
    try:
        return read(path)
    except ExamplesError as error:
        return error


def classified(
    classifier: Classifier, batches: Iterable[list[tuple[str, Tensor | ExamplesError]]], *, threshold: float = 0.0, top: int = 1
) -> Iterator[_Answered]:  # fmt: skip
    """Batches as ``read_ahead`` gives them -> the same with an answer in place of each image, (3, H, W) all of one size."""
    for batch in batches:
        images = [image for _, image in batch if isinstance(image, Tensor)]
        answers: Iterator[Prediction] = iter(())
        if images:
            scores = classifier.score(torch.stack(images))
            answers = iter(
                predict(classifier.labels, scores, temperature=classifier.temperature, threshold=threshold, top=top)
            )
        yield [(path, next(answers) if isinstance(image, Tensor) else image) for path, image in batch]
