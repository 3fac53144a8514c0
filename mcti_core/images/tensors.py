"""Convert images passed by a program to the form that models take."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ExamplesError, listed
from .reading import load_image, load_squares, on_white, to_square

__all__ = ["IMAGE_KEYS", "as_batch", "as_image", "images_in", "in_range", "square_batches"]

IMAGE_KEYS = ("image", "img", "pixel_values")
"""Usual names of the images among a data set's columns."""
_ROUNDING = 1e-3


def as_image(image: Any, name: str) -> Tensor:
    """One image as (3, H, W) float32 in [0, 1] on the CPU; ``name`` is for messages.

    Args:
        image: a tensor (3, H, W), a NumPy array (H, W, 3) or (3, H, W), each uint8 from 0 to 255 or floating-point in
            [0, 1], or a Pillow image of 8 bits per channel.

    Raises:
        ExamplesError: the type, shape, dtype or range is another one, or values are not finite.
    """
    if isinstance(image, Image.Image):
        image = _of_pillow(image, name)
    if isinstance(image, np.ndarray):
        image = _of_numpy(image, name)
    if not isinstance(image, Tensor):
        kinds = "a tensor (3, H, W), a NumPy array (H, W, 3) or a Pillow image"
        raise ExamplesError(f"{name} is of type {type(image).__name__}; give {kinds}")
    _refuse_unusual(image, name)
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ExamplesError(f"{name} has the shape {tuple(image.shape)}; give a tensor (3, H, W){_grey(image.shape)}")
    return in_range(image.detach() if image.requires_grad else image, name).float().cpu()


def as_batch(images: Any) -> Tensor:
    """A batch of images as (B, 3, H, W) floating-point in [0, 1]; floating-point values of a tensor do not change.

    Args:
        images: a tensor (B, 3, H, W) or an array (B, H, W, 3) or (B, 3, H, W); one image as in ``as_image``; or a list
            of such images, all of one size. uint8 from 0 to 255, or floating-point in [0, 1].

    Raises:
        ExamplesError: the type, shape, dtype or range is another one, values are not finite, there are no pixels, or the
            images have several sizes.
    """
    if isinstance(images, list | tuple):
        return _stacked([as_image(image, f"image {number}") for number, image in enumerate(images)])
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = _of_numpy(images, "the batch of images")
    if not isinstance(images, Tensor):
        return as_image(images, "the image")[None]
    _refuse_unusual(images, "the batch of images")
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ExamplesError(
            f"the images have the shape {tuple(images.shape)}; give a tensor (B, 3, H, W) of one image at least{_grey(images.shape[1:])}"
        )
    return in_range(images, "the batch of images")


def square_batches(images: Any, size: int | None, batch_size: int = 32) -> Iterator[Tensor]:
    """Images of any size as batches (B, 3, size, size), floating-point in [0, 1], cropped and resized as examples are.

    Args:
        images: as ``as_batch`` takes them; or the path of an image; or any list, iterator or column of images and paths, which is
            read in batches.
        size: side of the squares. None leaves images as they are, which then must have one size.
        batch_size: number of images of a list that are in memory together.

    Raises:
        ExamplesError: as ``as_batch``, or files that cannot be read as images.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind in "OU":  # of paths or Pillow images
        images = images.tolist()
    if isinstance(images, str | os.PathLike):
        images = [images]
    if isinstance(images, Tensor | np.ndarray | Image.Image | Mapping) or not isinstance(images, Iterable):
        batch = as_batch(images)
        fits = size is None or batch.shape[2:] == (size, size)
        yield batch if fits else torch.stack([to_square(image.float(), size) for image in batch])  # type: ignore[arg-type]
        return
    rows, number = iter(images), 0
    while (part := list(islice(rows, batch_size))) or not number:
        given = [
            Path(image) if isinstance(image, str | os.PathLike) else as_image(image, f"image {row}")
            for row, image in enumerate(part, number)
        ]
        read = load_squares(given, size) if size else [i if isinstance(i, Tensor) else load_image(i) for i in given]
        yield _stacked(read)
        number += len(part)


def images_in(batch: Any) -> Any:
    """The images of a ``DataLoader``'s batch, with or without labels. Raises: ExamplesError: there are none."""
    if isinstance(batch, Mapping):
        if key := next((key for key in IMAGE_KEYS if key in batch), None):
            return batch[key]
        raise ExamplesError(f"the batch has keys {listed(list(batch))}; images are read from {', '.join(IMAGE_KEYS)}")
    first = batch[0] if isinstance(batch, list | tuple) and batch else None
    return first if isinstance(first, Tensor | np.ndarray) and first.ndim == 4 else batch


def _refuse_unusual(images: Tensor, name: str) -> None:
    if images.is_nested or images.layout != torch.strided or images.is_meta:
        raise ExamplesError(f"{name} is a tensor without plain numbers (nested, sparse or meta); make it dense")


def _grey(shape: Sequence[int]) -> str:
    """Advice for an image that seems to have a single channel."""
    is_grey = 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[2])))
    return "; repeat a grey image's channel three times" if is_grey else ""


def _stacked(images: list[Tensor]) -> Tensor:
    sizes = sorted({(image.shape[2], image.shape[1]) for image in images})
    if len(sizes) != 1:
        found = " and ".join(f"{width} x {height}" for width, height in (sizes[0], sizes[-1])) if sizes else "none"
        raise ExamplesError(f"images of a list must have one size, got {found}; resize them, or pass each separately")
    return torch.stack(images)


def in_range(pixels: Tensor, name: str, beyond: float = _ROUNDING) -> Tensor:
    """Pixels of any shape as floating-point values, at most ``beyond`` outside [0, 1]; bytes are scaled to it.

    Raises:
        ExamplesError: another dtype, or values that are further outside or not finite.
    """
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    if not pixels.is_floating_point() or pixels.element_size() < 2:
        raise ExamplesError(f"{name} is of the type {pixels.dtype}; give uint8 from 0 to 255, or float in [0, 1]")
    low, high = (float(value) for value in pixels.detach().aminmax())
    if -beyond <= low <= high <= 1 + beyond:
        return pixels
    if not math.isfinite(low) or not math.isfinite(high):  # with NaN, both are NaN
        raise ExamplesError(f"{name} has values that are not finite numbers; give values in [0, 1]")
    is_signed = -1.5 < low < 0 and high < 1.5
    remedy = "map values from -1 to 1 by x / 2 + 0.5" if is_signed else "divide values from 0 to 255 by 255"
    raise ExamplesError(f"{name} has values from {low:.4g} to {high:.4g}, outside [0, 1]; {remedy}")


def _of_numpy(pixels: np.ndarray[Any, Any], name: str) -> Tensor:
    if pixels.dtype.kind not in "fu" or pixels.dtype.itemsize > 8:
        raise ExamplesError(f"{name} is of the type {pixels.dtype}; give uint8 from 0 to 255, or float in [0, 1]")
    native = pixels.astype(pixels.dtype.newbyteorder("="))  # a copy that PyTorch may write to
    tensor = torch.from_numpy(np.ascontiguousarray(native))
    return tensor.movedim(-1, -3) if tensor.ndim in (3, 4) and tensor.shape[-1] == 3 else tensor


def _of_pillow(image: Image.Image, name: str) -> np.ndarray[Any, Any]:
    """(H, W, 3) uint8, on white if it is transparent, as for files."""
    if image.mode[0] in "IF":
        raise ExamplesError(f"{name} is a Pillow image of mode {image.mode}; convert it to 8 bits per channel")
    return np.asarray(on_white(image))
