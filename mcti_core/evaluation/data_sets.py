"""Data sets of the benchmark with training and test parts: torchvision's, and folders of class folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import FewShotDataset
from ..errors import ExamplesError, MCTIError
from .ucf101 import ucf101_part

__all__ = ["DATA_SETS", "ImageSet", "Part", "at_most", "load_folder", "load_known", "split_by_thirds"]

Part = tuple[Sequence[Any], Tensor]
"""N images (paths, arrays or tensors), and their class indices (N,) int64."""


@dataclass(frozen=True)
class ImageSet:
    """A data set with its training and test parts. Class names are for CLIP zero-shot only."""

    name: str
    classes: tuple[str, ...]
    train: Part
    test: Part
    own_test: bool
    """Whether the data set has an official test part; otherwise a third of its images is held out."""


_TRAIN, _TEST = {"split": "train"}, {"split": "test"}
DATA_SETS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any] | None, str, bool]] = {
    "flowers102": ("Flowers102", "flowers-102", _TRAIN, _TEST, "jpg/, imagelabels.mat and setid.mat", True),
    "imagenet": ("ImageNet", "imagenet", _TRAIN, {"split": "val"}, "the three ILSVRC2012 archives", False),
    "food101": ("Food101", "food-101", _TRAIN, _TEST, "images/ and meta/", True),
    "pets": ("OxfordIIITPet", "oxford-iiit-pet", {"split": "trainval"}, _TEST, "images/ and annotations/", True),
    "aircraft": ("FGVCAircraft", "fgvc-aircraft-2013b", {"split": "trainval"}, _TEST, "data/", True),
    "cars": ("StanfordCars", "stanford_cars", _TRAIN, _TEST, "devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat", False),
    "ucf101": ("", "ucf101", _TRAIN, _TEST, "ucfTrainTestlist/, and UCF-101/ (videos) or UCF-101-midframes/ (images)", False),
    "eurosat": ("EuroSAT", "eurosat", {}, None, "2750/", True),
    "dtd": ("DTD", "dtd", _TRAIN, _TEST, "dtd/ with images/ and labels/", True),
    "caltech101": ("Caltech101", "caltech101", {}, None, "101_ObjectCategories/", True),
    "stl10": ("STL10", "stl10_binary", _TRAIN, _TEST, "the binary version's files", True),
    "cifar10": ("CIFAR10", "cifar-10-batches-py", {"train": True}, {"train": False}, "the Python version's files", True),
}  # fmt: skip
"""(torchvision class, folder, training options, test options, expected content, can be downloaded), by name.

CIFAR10 consists of pickles, which torchvision opens only if their hashes are the original ones.
"""


def load_known(name: str, data: Path, *, download: bool = False) -> ImageSet:
    """Load one of ``DATA_SETS`` from its folder in ``data``.

    Raises:
        MCTIError: the data set is missing or damaged (the message has the expected path and content), or torchvision is
            not installed.
    """
    kind, folder, train, test, contents, downloads = DATA_SETS[name]
    place = data / folder
    if not place.is_dir() and not (download and downloads):
        hint = "give --download" if downloads else "torchvision cannot download it"
        raise MCTIError(f"it is not at {place}; put {contents} there ({hint})")
    root = place if kind in ("", "ImageNet") else data
    try:
        classes, images = _part(kind, root, {**train, "download": True} if download and downloads else train)
        if test is None:
            return split_by_thirds(name, classes, images)
        return ImageSet(name, classes, images, _part(kind, root, test)[1], True)
    except MCTIError:
        raise
    except Exception as error:  # torchvision raises many types for damaged files
        reason = f"{type(error).__name__}: {error!s:.200}"
        raise MCTIError(f"{place} cannot be read ({reason}); there should be {contents}") from error


def load_folder(folder: Path) -> ImageSet:
    """Load ``folder/<class>/<image>``, or ``folder/train/...`` and ``folder/test/...`` with the same classes.

    Raises:
        ExamplesError: as ``FewShotDataset.from_folder``, or the two parts have different classes.
    """
    if not (folder / "train").is_dir() or not (folder / "test").is_dir():
        data = FewShotDataset.from_folder(folder)
        return split_by_thirds(folder.name, data.classes, (data.images, data.labels))
    train, test = (FewShotDataset.from_folder(folder / part) for part in ("train", "test"))
    if train.classes != test.classes:
        raise ExamplesError(f"{folder}: train and test have different class folders; give both the same ones")
    return ImageSet(folder.name, train.classes, (train.images, train.labels), (test.images, test.labels), True)


def split_by_thirds(name: str, classes: tuple[str, ...], images: Part) -> ImageSet:
    """Hold out a fixed random third of each class for the test."""
    pictures, labels = images
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    if min(counts) < 2:
        raise ExamplesError(
            f"class {classes[counts.index(min(counts))]!r} has {min(counts)} image; give it two or more"
        )
    test = at_most(labels, [max(1, count // 3) for count in counts])
    rest = torch.ones(len(labels), dtype=torch.bool).index_fill(0, test, False).nonzero()[:, 0]
    train, held_out = (([pictures[i] for i in index.tolist()], labels[index]) for index in (rest, test))
    return ImageSet(name, classes, train, held_out, False)


def at_most(labels: Tensor, counts: Sequence[int], seed: int = 0) -> Tensor:
    """Sorted indices of up to ``counts[c]`` random members of each class c."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[labels[order] == c][:count] for c, count in enumerate(counts)]).sort().values


def _part(kind: str, root: Path, options: dict[str, Any]) -> tuple[tuple[str, ...], Part]:
    """Class names and images of one part of a data set."""
    images: Sequence[Any]
    if kind:
        try:
            from torchvision import datasets
        except ImportError as error:
            raise MCTIError(
                "this data set needs torchvision; install it with: pip install 'mcti[benchmark]'"
            ) from error
        found = getattr(datasets, kind)(str(root), **options)
        names = getattr(found, "categories", None) or found.classes
        images, numbers = _images_of(found)
    else:
        names, images, numbers = ucf101_part(root, **options)
    labels = torch.as_tensor(numbers, dtype=torch.long)
    if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= len(names):
        raise ValueError(f"{len(labels)} images with classes outside 0 to {len(names) - 1}")
    plain = (name[0] if isinstance(name, tuple) else name for name in names)  # ImageNet has several names per class
    words = (re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ") for name in plain)
    return tuple(words), ([Path(i) if isinstance(i, str) else i for i in images], labels)


def _images_of(found: Any) -> tuple[Sequence[Any], Any]:
    """Paths or pixels of a torchvision data set, and class indices. Files are read later, by ``images.reading``."""
    if pairs := getattr(found, "_samples", None) or getattr(found, "samples", None):
        return [image for image, _ in pairs], [label for _, label in pairs]
    if hasattr(found, "categories"):  # Caltech101
        folders = [Path(found.root) / "101_ObjectCategories" / found.categories[label] for label in found.y]
        return [f / f"image_{n:04d}.jpg" for f, n in zip(folders, found.index, strict=True)], found.y
    images, labels = (
        next(value for name in names if (value := getattr(found, name, None)) is not None)
        for names in (("_image_files", "_images", "data"), ("_labels", "targets", "labels"))
    )
    return images, labels
