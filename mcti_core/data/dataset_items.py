"""Read data sets of PyTorch, torchvision and Hugging Face without importing these libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..errors import ExamplesError, listed
from ..images.tensors import images_in

__all__ = ["item_image", "labels_of"]

_LABEL_KEYS = ("label", "labels", "fine_label", "target")
"""Common names of the label column."""


def labels_of(dataset: Any, classes: Sequence[str] | None, label: str | None) -> tuple[tuple[str, ...], Tensor]:
    """Nonempty classes of a map-style data set, and the (N,) int64 class of each item.

    Images are decoded only if labels are not accessible separately. Arguments as for ``FewShotDataset.from_dataset``.

    Raises:
        ExamplesError: not a map-style data set, a missing column, or a label without a class name.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ExamplesError(f"a {type(dataset).__name__} has no numbered items; give a map-style data set")
    columns = getattr(dataset, "column_names", None)
    if columns and label is None:
        label = next((key for key in _LABEL_KEYS if key in columns), None)
    if columns and label not in columns:
        raise ExamplesError(f"the data set has the columns {listed(columns)}; name the one with the labels as label=")
    if columns:
        stored = dataset[label]
    elif hasattr(dataset, "targets"):
        stored = dataset.targets
    else:
        stored = (_item_label(dataset[number], label) for number in range(len(dataset)))
    values = list(map(_plain_label, stored))
    names = classes if classes is not None else _own_names(dataset, label)
    if names is None:
        if len({isinstance(value, str) for value in values}) > 1:
            raise ExamplesError("some labels of the data set are texts and others numbers; name them as classes=")
        names = list(map(str, sorted(set(values))))
        values = list(map(str, values))
    texts = [
        value if isinstance(value, str) else names[value] if isinstance(value, int) and 0 <= value < len(names) else ""
        for value in values
    ]
    if unnamed := [value for value, text in zip(values, texts, strict=True) if text not in names]:
        raise ExamplesError(f"labels such as {unnamed[0]!r} are none of the {len(names)} classes; give classes=")
    present = set(texts)
    used = tuple(name for name in names if name in present)
    number = {name: index for index, name in enumerate(used)}
    return used, torch.tensor([number[text] for text in texts], dtype=torch.long)


def _plain_label(value: Any) -> str | int | float:
    """A label as a text or a number. Raises: ExamplesError: it is something else."""
    with suppress(TypeError, ValueError, RuntimeError):  # an array of several numbers
        value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, str | int | float):
        raise ExamplesError(f"a label is of type {type(value).__name__}; labels are texts or whole numbers")
    return value


def item_image(item: Any, image: str | None) -> Any:
    """Image of an item: the column ``image`` of a mapping, or the first entry of a pair."""
    if isinstance(item, Mapping):
        return item[image] if image in item else images_in(item)
    return item[0] if isinstance(item, list | tuple) else item


def _item_label(item: Any, label: str | None) -> Any:
    if isinstance(item, Mapping):
        key = label or next((key for key in _LABEL_KEYS if key in item), None)
        if key in item:
            return item[key]
    elif isinstance(item, list | tuple) and len(item) > 1:
        return item[1]
    raise ExamplesError("an item of the data set has no label; give pairs of image and label, or its key as label=")


def _own_names(dataset: Any, label: str | None) -> Sequence[str] | None:
    """Class names of a data set, or of the data set behind a subset."""
    while dataset is not None:
        column = getattr(dataset, "features", None)
        column = column.get(label) if isinstance(column, Mapping) else dataset
        if (names := getattr(column, "names", None) or getattr(column, "classes", None)) is not None:
            return list(names)
        dataset = getattr(dataset, "dataset", None)
    return None
