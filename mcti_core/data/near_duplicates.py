"""Find examples that are the same image or nearly so: saved again, scaled, slightly cropped, or with other contrast.

Images are compared as 12 x 12 colours. Two are the same if these correlate and are about equally bright. Among 43 photographs, 1,797
handwritten digits and 2,000 characters, no two different images match, and all match their copies after JPEG (quality 30) or at half the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .dataset import FewShotDataset

__all__ = [
    "THUMBNAIL", "across_classes", "across_split", "describe_across_classes", "example_names", "first_alike",
    "list_pairs", "thumbnails",
]  # fmt: skip

_SIDE = 12
THUMBNAIL = 3 * _SIDE**2
"""Numbers per thumbnail: 12 x 12 colours."""
_MIN_CORRELATION = 0.99
_MAX_BRIGHTNESS_DIFFERENCE = 0.15
_MIN_DEVIATION = 0.002
"""Standard deviation below which an image is a single colour; half a level of 8 bits."""
_PAIRS_PER_CHUNK = 2**24
"""Number of pairs that are compared at once."""


def thumbnails(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, ``THUMBNAIL``) float32 thumbnails to compare."""
    small = F.interpolate(images.float(), size=(_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
    return small.flatten(1)


def first_alike(thumbnails: Tensor) -> Tensor:
    """(N, 432) -> (N,) int64: index of the first image that is the same or nearly so; its own index if there is none.

    Time grows with N squared: about 10 s for 20,000 images.
    """
    brightness = thumbnails.mean(1)
    centred = thumbnails - brightness[:, None]
    length = centred.norm(dim=1, keepdim=True)
    flat = length / thumbnails.shape[1] ** 0.5 < _MIN_DEVIATION
    unit = torch.where(flat, 0.0, centred / length.clamp_min(1e-12))
    unit = torch.cat([unit, flat.float()], dim=1)  # images of a single colour match each other
    first = torch.arange(len(thumbnails))
    rows = max(1, _PAIRS_PER_CHUNK // max(1, len(first)))
    for start in range(0, len(first), rows):
        part = slice(start, min(start + rows, len(first)))
        alike = unit[part] @ unit[: part.stop].T >= _MIN_CORRELATION
        alike &= (brightness[part, None] - brightness[: part.stop]).abs() <= _MAX_BRIGHTNESS_DIFFERENCE
        alike[:, part].fill_diagonal_(True)  # an image matches itself despite rounding
        first[part] = alike.int().argmax(1)
    for number, other in enumerate(first.tolist()):  # a copy of a copy is a copy of the first
        first[number] = first[other]
    return first


def across_classes(alike: Tensor, labels: Tensor) -> list[tuple[int, int]]:
    """Pairs of examples that are one image (by ``first_alike``) in different classes, one pair per such image."""
    pairs, examples = [], dict[int, dict[int, int]]()  # image -> class -> its first example
    for number, (image, label) in enumerate(zip(alike.tolist(), labels.tolist(), strict=True)):
        of_class = examples.setdefault(image, {})
        if label not in of_class and of_class:
            pairs.append((next(iter(of_class.values())), number))
        of_class.setdefault(label, number)
    return pairs


def across_split(alike: Tensor, support: Tensor, query: Tensor) -> list[tuple[int, int]]:
    """Index pairs of a support and a query example that are one image (by ``first_alike``), one per such query."""
    learned = {int(alike[number]): number for number in reversed(support.tolist())}
    return [(learned[image], number) for number in query.tolist() if (image := int(alike[number])) in learned]


def describe_across_classes(alike: Tensor | None, labels: Tensor, names: Sequence[str]) -> str:
    """A message about images in several classes; empty if there are none, or if ``alike`` is None."""
    pairs = [] if alike is None else across_classes(alike, labels)
    if not pairs:
        return ""
    found = f"{len(pairs)} {'images are' if len(pairs) > 1 else 'image is'} in more than one class, or nearly the same"
    shown = list_pairs(pairs, names)
    return f"{found} as one of another class ({shown}); no classifier can separate these, so remove the wrong ones"


def example_names(dataset: FewShotDataset) -> list[str]:
    """Names of the examples for messages: folder and file, or index and class for images in memory."""
    labels = [dataset.classes[label] for label in dataset.labels.tolist()]
    return [
        f"{image.parent.name}/{image.name}" if isinstance(image, Path) else f"image {number} ({label})"
        for number, (image, label) in enumerate(zip(dataset.images, labels, strict=True), 1)
    ]


def list_pairs(pairs: Sequence[tuple[int, int]], names: Sequence[str], most: int = 3) -> str:
    """The first pairs by name: "a and b; c and d; ..."."""
    shown = "; ".join(f"{names[first]} and {names[second]}" for first, second in pairs[:most])
    return shown + ("; ..." if len(pairs) > most else "")
