"""Few-shot examples from a folder of class folders, a data set, or images in memory."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ExamplesError, counted
from ..files.limits import check_counts
from ..images.reading import (
    UnreadableError,
    image_size,
    load_image,
    load_squares,
    one_error,
    open_image,
    to_size,
)
from ..images.tensors import as_image
from ..tokens.names import normal_form, safe_names
from ..tokens.token_set import UNKNOWN
from .dataset_items import item_image, labels_of
from .example_files import find_class_folders
from .sidecars import find_captions, find_masks

__all__ = ["FewShotDataset", "few_shot_split"]


@dataclass(frozen=True)
class FewShotDataset:
    """N images of C classes.

    Args:
        classes: (C,) labels in label order.
        images: (N,) paths, which are read when needed, or images for ``images.tensors.as_image``.
        labels: (N,) int64 class of each image.
        min_classes: 1 allows a single class, for example to add to a token set.
        skipped: one line about unused files in the folder, with reasons; "" if all are used.
        captions: image -> caption file (``data.sidecars``).
        masks: image -> mask file (``data.sidecars``).

    Raises:
        ExamplesError: too few classes, two labels for the same class, a class without images, or an image that
            ``as_image`` refuses.
        TokenError: too many or too long classes (``files.limits.check_counts``).
    """

    classes: tuple[str, ...]
    images: tuple[Path | Tensor, ...]
    labels: Tensor
    min_classes: int = 2
    skipped: str = ""
    captions: Mapping[Path, Path] = field(default_factory=dict)
    masks: Mapping[Path, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", torch.as_tensor(self.labels, dtype=torch.long))
        if len(self.images) != len(self.labels):
            raise ExamplesError(f"{len(self.images)} images but {len(self.labels)} labels")
        if len(self.classes) < max(1, self.min_classes):
            found = ", ".join(self.classes) or "(none)"
            raise ExamplesError(f"there is only the class {found}; telling things apart needs at least two")
        if other := next((label for label in self.classes if not isinstance(label, str)), None):
            raise ExamplesError(f"the label {other!r} is of type {type(other).__name__}; labels are texts")
        check_counts(self.classes, ())
        _refuse_shared_names(self.classes)
        for index, name in enumerate(self.classes):
            if not (self.labels == index).any():
                raise ExamplesError(f"class {name!r} has no images; give it at least one")
        images = (i if isinstance(i, Path) else as_image(i, f"image {row}") for row, i in enumerate(self.images))
        object.__setattr__(self, "images", tuple(images))

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, min_classes: int = 2, captions: bool = False, masks: str | Path | None = None
    ) -> FewShotDataset:
        """Read ``folder/<class>/<image>``; classes and images are sorted by name. ``skipped`` describes unused files.

        Args:
            min_classes: 1 allows a single class folder.
            captions: use caption files (``data.sidecars``).
            masks: source of masks, ``where`` of ``data.sidecars.find_masks``.

        Raises:
            ExamplesError: the folder is missing, there are too few class folders, a class folder has unusable images, or
                no image has a caption or mask although they are requested.
        """
        classes, skipped = find_class_folders(folder)
        images = [path for _, paths in classes for path in paths]
        texts = find_captions(images) if captions else {}
        if captions and images and not texts:
            raise ExamplesError(f"no image has a caption; {images[0].with_suffix('.txt')} would be the first one's")
        masked = find_masks(images, masks) if masks and images else {}
        skipped.forget([*texts.values(), *masked.values()])
        report = skipped.report()
        if len(classes) < min_classes:
            found = f"only the class folder {classes[0][0]!r}" if classes else "no class folders with images"
            raise ExamplesError(
                f"{folder} contains {found}{f' ({report})' * bool(report)}; put the images of at least "
                f"{'one class' if min_classes == 1 else 'two classes'} into a folder of their own there"
            )
        labels = torch.tensor([index for index, (_, paths) in enumerate(classes) for _ in paths])
        names = tuple(label for label, _ in classes)
        return cls(names, tuple(images), labels, min_classes, report, texts, masked)

    @classmethod
    def from_images(cls, images: Mapping[str, Sequence[Any] | Tensor]) -> FewShotDataset:
        """Take images from memory; label order is the order of the mapping.

        Args:
            images: label -> images for ``images.tensors.as_image``, a batch (n, 3, H, W), or one image (3, H, W).

        Raises:
            ExamplesError: as for ``as_image`` and for the class itself, or ``images`` is not a mapping.
        """
        if not isinstance(images, Mapping):
            got = type(images).__name__
            raise ExamplesError(
                f"from_images takes a mapping of labels to images, got {got}; from_folder reads a folder"
            )
        found, labels = list[Tensor](), list[int]()
        for index, (label, batch) in enumerate(images.items()):
            found += (as_image(image, f"an image of class {label!r}") for image in _each(batch, label))
            labels += [index] * (len(found) - len(labels))
        return cls(tuple(images), tuple(found), torch.tensor(labels))

    @classmethod
    def from_dataset(
        cls, dataset: Any, *, classes: Sequence[str] | None = None, image: str | None = None, label: str | None = None,
        shots: int | None = None, seed: int = 0,
    ) -> FewShotDataset:  # fmt: skip
        """Take images and labels from a map-style data set of PyTorch, torchvision or Hugging Face.

        Images are kept in memory, so set ``shots`` for a large data set.

        Args:
            dataset: pairs (image, label), or mappings with both; images as for ``images.tensors.as_image``.
            classes: class names of integer labels; by default the data set's own (``classes``, or those of a ``ClassLabel``).
            image: name of the image column; by default ``image``, ``img`` or ``pixel_values``.
            label: name of the label column; by default ``label`` or a similar name.
            shots: number of random images per class; by default all.
            seed: seed of the random choice.

        Raises:
            ExamplesError: not a map-style data set, a label without a class name, a class with fewer images than ``shots``, or
                as for the class itself.
        """
        names, labels = labels_of(dataset, classes, label)
        rows = torch.arange(len(labels))
        if shots is not None:
            rows, _ = few_shot_split(labels, names, shots, seed, least_left=0)
        images = (as_image(item_image(dataset[row], image), f"image {row}") for row in rows.tolist())
        return cls(names, tuple(images), labels[rows])

    def __len__(self) -> int:
        return len(self.images)

    def split(self, shots: int, seed: int = 0) -> tuple[FewShotDataset, FewShotDataset]:
        """Split into a support set of ``shots`` random images per class, and a query set of all others.

        With the same seed, the support set of fewer shots is a subset of that of more shots.

        Raises:
            ExamplesError: a class has no image for the query set.
        """
        support, query = few_shot_split(self.labels, self.classes, shots, seed)
        return self.pick(support), self.pick(query)

    def pick(self, index: Tensor | Sequence[int]) -> FewShotDataset:
        """The images at these indices; at least one per class must remain."""
        rows = torch.as_tensor(index, dtype=torch.long)
        images = tuple(self.images[row] for row in rows.tolist())
        return replace(self, images=images, labels=self.labels[rows], skipped="")

    def load(self, size: int, rows: Iterable[int] | None = None) -> Iterator[Tensor]:
        """Yield each image, or those in the given rows, as (3, size, size) float32 in [0, 1]."""
        for row in range(len(self)) if rows is None else rows:
            yield from load_squares([self.images[row]], size)

    def sidecars(self, row: int) -> tuple[Path | None, Path | None]:
        """Caption file and mask file of an image, each None if missing."""
        image = self.images[row]
        return (self.captions.get(image), self.masks.get(image)) if isinstance(image, Path) else (None, None)

    def size_of(self, row: int) -> tuple[int, int]:
        """Height and width of an image in pixels. Decodes the file."""
        image = self.images[row]
        return (image.shape[1], image.shape[2]) if isinstance(image, Tensor) else image_size(image)

    def load_as(self, row: int, height: int, width: int) -> Tensor:
        """Read one image as (3, height, width) float32 in [0, 1], with a centre crop."""
        image = self.images[row]
        return to_size(image if isinstance(image, Tensor) else load_image(image), height, width)

    def fingerprint(self) -> str:
        """Hash of the contents of all images, captions and masks, and of the labels, hexadecimal.

        Raises:
            ExamplesError: one error for all unreadable files.
        """
        digest = hashlib.sha256()
        errors = []
        for row, (image, label) in enumerate(zip(self.images, self.labels.tolist(), strict=True)):
            try:
                for content in (image, *filter(None, self.sidecars(row))):
                    _digest(content, label, digest)
            except UnreadableError as error:
                errors.append(error)
            except OSError as error:
                errors.append(UnreadableError(str(image), error.strerror or str(error)))
        if errors:
            raise one_error(errors)
        return digest.hexdigest()


def few_shot_split(
    labels: Tensor, classes: Sequence[str], shots: int, seed: int, *, least_left: int = 1
) -> tuple[Tensor, Tensor]:
    """Indices of ``shots`` random members of every class, and of all others, both ascending.

    Args:
        least_left: minimum number of remaining members per class.

    Raises:
        ExamplesError: a class has too few members.
    """
    if shots < 1:
        raise ExamplesError(f"shots must be at least 1, got {shots}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    support = torch.zeros(len(labels), dtype=torch.bool)
    for index, name in enumerate(classes):
        members = order[labels[order] == index]
        if len(members) < shots + least_left:
            images, needed = counted(len(members), "image"), counted(shots, "shot")
            test = " and at least one to test on" if least_left else ""
            raise ExamplesError(f"class {name!r} has {images}: too few for {needed}{test}")
        support[members[:shots]] = True
    return support.nonzero()[:, 0], (~support).nonzero()[:, 0]


def _digest(content: Path | Tensor, label: int, digest: Any) -> None:
    """Feed an image's content to a hash in parts."""
    if isinstance(content, Tensor):
        numbers = f"{tuple(content.shape)}".encode() + content.numpy().tobytes()
        digest.update(f"{label}:{len(numbers)}:".encode() + numbers)
        return
    with open_image(content) as file:
        digest.update(f"{label}:{os.fstat(file.fileno()).st_size}:".encode())
        while part := file.read(2**20):
            digest.update(part)


def _each(images: Sequence[Any] | Tensor, label: str) -> Sequence[Any] | Tensor:
    """Wrap a single image in a list."""
    single = isinstance(images, Image.Image) or (isinstance(images, Tensor | np.ndarray) and images.ndim == 3)
    scalar = isinstance(images, Tensor | np.ndarray) and images.ndim == 0
    if not single and (scalar or isinstance(images, str) or not isinstance(images, Iterable)):
        found = f"the images of class {label!r} are of type {type(images).__name__}"
        raise ExamplesError(f"{found}; give a list of images, or a batch")
    return [images] if single else images


def _refuse_shared_names(classes: Sequence[str]) -> None:
    if UNKNOWN in classes:
        raise ExamplesError(f"a class is called {UNKNOWN!r}, which is the answer for images of no class; rename it")
    names = [normal_form(safe_names([label])[0]) for label in classes]
    for index, (label, name) in enumerate(zip(classes, names, strict=True)):
        nameless = name == "token" and label not in classes[:index]  # such as "!" and "?", which get numbers
        if name in names[:index] and not nameless:
            other = classes[names.index(name)]
            if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", label):
                raise ExamplesError(
                    f"two classes are called {label!r}, written with other characters ({other!a} and {label!a}), as a Mac "
                    "and other systems do; put their images into one folder"
                )
            raise ExamplesError(f"classes {other!r} and {label!r} become the same token name {name!r}; rename one")
