"""Few-shot examples: a folder of class folders, or images in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .errors import ExamplesError
from .image_tensors import as_image
from .normal_form import label_of_folder, normal_form
from .tokens import UNKNOWN, safe_names

__all__ = ["IMAGE_SUFFIXES", "FewShotDataset", "few_shot_split", "find_images", "load_image", "load_square"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""By content, whatever a file is called: Pillow would hand PostScript to Ghostscript, a program of its own."""
_MAX_PIXELS = 200_000_000
_STRIP = 256
"""Rows at once."""


@dataclass(frozen=True)
class FewShotDataset:
    """N images of C classes.

    Args:
        classes: (C,) labels in label order.
        images: (N,) each a path, read when needed, or an image as ``image_tensors.as_image`` takes it.
        labels: (N,) int64 class of each image.
        alone: one class is enough, for it is to be added to others.

    Raises:
        ExamplesError: fewer than two classes, labels that name one class twice, a class without images, an image that
            ``as_image`` refuses.
    """

    classes: tuple[str, ...]
    images: tuple[Path | Tensor, ...]
    labels: Tensor
    alone: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", torch.as_tensor(self.labels, dtype=torch.long))
        if len(self.images) != len(self.labels):
            raise ExamplesError(f"{len(self.images)} images but {len(self.labels)} labels")
        if len(self.classes) < (1 if self.alone else 2):
            raise ExamplesError(
                f"there is only the class {', '.join(self.classes) or '(none)'}; telling things apart needs at least two"
            )
        _refuse_twins(self.classes)
        for index, name in enumerate(self.classes):
            if not (self.labels == index).any():
                raise ExamplesError(f"class {name!r} has no images; give it at least one")
        images = (
            image if isinstance(image, Path) else as_image(image, f"image {index}")
            for index, image in enumerate(self.images)
        )
        object.__setattr__(self, "images", tuple(images))

    @classmethod
    def from_folder(cls, folder: str | Path, *, alone: bool = False) -> FewShotDataset:
        """Read ``folder/<class>/<image>``; classes and images sorted by name, hidden ones left out.

        Args:
            alone: one class folder is enough.

        Raises:
            ExamplesError: no such folder, fewer than two class folders, a class folder without images.
        """
        root = Path(folder)
        if not root.is_dir():
            raise ExamplesError(f"no folder {root}; give a folder that holds one folder of images a class")
        classes = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if len(classes) < (1 if alone else 2):
            found = f"only the class folder {classes[0].name!r}" if classes else "no class folders"
            raise ExamplesError(
                f"{root} holds {found}; put the images of each of at least two classes into a folder of their own there"
            )
        images: list[Path | Tensor] = []
        labels: list[int] = []
        for index, path in enumerate(classes):
            files = find_images(path)
            if not files:
                raise ExamplesError(
                    f"class {path.name!r} has no images in {path}: put at least one {', '.join(IMAGE_SUFFIXES)} there"
                )
            images += files
            labels += [index] * len(files)
        return cls(tuple(label_of_folder(path.name) for path in classes), tuple(images), torch.tensor(labels), alone)

    @classmethod
    def from_images(cls, images: Mapping[str, Sequence[Any] | Tensor]) -> FewShotDataset:
        """Label -> images as ``image_tensors.as_image`` takes them, one (n, 3, H, W) batch, or one image (3, H, W).

        Label order is the mapping's.

        Raises:
            ExamplesError: as ``as_image``, and as the class itself.
        """
        flat = [
            (index, as_image(image, f"an image of class {label!r}"))
            for index, (label, batch) in enumerate(images.items())
            for image in _each(batch)
        ]
        return cls(tuple(images), tuple(image for _, image in flat), torch.tensor([index for index, _ in flat]))

    def __len__(self) -> int:
        return len(self.images)

    def split(self, shots: int, seed: int = 0) -> tuple[FewShotDataset, FewShotDataset]:
        """``shots`` random images of every class as support, and all the others as query.

        The support of fewer shots is part of the support of more, for the same seed.

        Raises:
            ExamplesError: a class has too few images to leave one for the query.
        """
        support, query = few_shot_split(self.labels, self.classes, shots, seed)
        return self.pick(support), self.pick(query)

    def pick(self, index: Tensor | Sequence[int]) -> FewShotDataset:
        """The images at these indices; every class must keep one."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        images = tuple(self.images[i] for i in chosen.tolist())
        return FewShotDataset(self.classes, images, self.labels[chosen], self.alone)

    def load(self, size: int, rows: Iterable[int] | None = None) -> Iterator[Tensor]:
        """Each image, or those in these rows, as (3, size, size) float32 in [0, 1]."""
        for row in range(len(self)) if rows is None else rows:
            image = self.images[row]
            yield to_square(image, size) if isinstance(image, Tensor) else load_square(image, size)

    def fingerprint(self) -> str:
        """Hash of all image contents and labels, hexadecimal."""
        digest = hashlib.sha256()
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            content = _content(image)
            digest.update(f"{label}:{len(content)}:".encode())
            digest.update(content)
        return digest.hexdigest()


def few_shot_split(labels: Tensor, classes: Sequence[str], shots: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of ``shots`` random members of every class, and of all the others, both ascending.

    Raises:
        ExamplesError: a class has too few members to leave one over.
    """
    if shots < 1:
        raise ExamplesError(f"shots must be at least 1, got {shots}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    support = torch.zeros(len(labels), dtype=torch.bool)
    for index, name in enumerate(classes):
        members = order[labels[order] == index]
        if len(members) <= shots:
            raise ExamplesError(
                f"class {name!r} has {len(members)} images: too few for {shots} shots and at least one to test on"
            )
        support[members[:shots]] = True
    return support.nonzero()[:, 0], (~support).nonzero()[:, 0]


def find_images(path: str | Path) -> list[Path]:
    """The image files of a folder, sorted by name; or the one file itself."""
    path = Path(path)
    if path.is_file():
        return [path]
    return sorted(
        file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )


def load_image(path: str | Path) -> Tensor:
    """Read an image as (3, H, W) float32 in [0, 1]: EXIF orientation applied, transparency laid on white.

    Raises:
        ExamplesError: the file is missing, not an image, truncated, or absurdly large.
    """
    return _as_floats(_read(path))


def load_square(path: str | Path, size: int) -> Tensor:
    """``to_square(load_image(path), size)``, with less memory on the way: (3, size, size).

    Raises:
        ExamplesError: as ``load_image``.
    """
    pixels = _read(path)
    top, left, side = _middle(*pixels.shape[:2])
    return to_square(_as_floats(pixels[top : top + side, left : left + side]), size)


def _read(path: str | Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3); whatever is wrong with the file is an ``ExamplesError``."""
    try:
        return _pixels(path)
    except ExamplesError:
        raise
    except Exception as error:  # of any kind: Pillow passes on what damaged metadata leads to, such as struct.error
        reason = _reason(error)
        raise ExamplesError(f"{path} cannot be read as an image ({reason}); replace it or take it out") from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, MemoryError):  # how much is asked for depends on the file, so the next one may well be read
        return "not enough memory"
    return str(error) or type(error).__name__


def _as_floats(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255)  # (3, H, W)


def _pixels(path: str | Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3); all that Pillow held of the image is given back."""
    with Image.open(path, formats=_FORMATS) as opened:
        if opened.width * opened.height > _MAX_PIXELS:
            raise ExamplesError(
                f"{path} has {opened.width} x {opened.height} pixels; at most {_MAX_PIXELS // 1_000_000} million are read"
            )
        opened.load()
        image = ImageOps.exif_transpose(opened)
        pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
        for top in range(0, image.height, _STRIP):  # a very large image is there once, not in every step of the way
            strip = _eight_bits(image.crop((0, top, image.width, min(top + _STRIP, image.height))))
            if strip.has_transparency_data:
                strip = strip.convert("RGBA")
                strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
            pixels[top : top + _STRIP] = np.asarray(strip.convert("RGB"))
        return pixels


def _content(image: Path | Tensor) -> bytes:
    if isinstance(image, Tensor):
        return f"{tuple(image.shape)}".encode() + image.numpy().tobytes()
    try:
        return image.read_bytes()
    except OSError as error:
        raise ExamplesError(f"{image} cannot be read ({error.strerror}); put it back or take it out") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey images of 16 bits scaled down to 8; Pillow's own conversion would cut all but the darkest to white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))


def to_square(image: Tensor, size: int) -> Tensor:
    """(3, H, W) -> (3, size, size): centre crop to a square, then bicubic with antialiasing."""
    top, left, side = _middle(*image.shape[1:])
    square = image[:, top : top + side, left : left + side]
    if side == size:
        return square.clone()
    resized = torch.nn.functional.interpolate(
        square[None], size=(size, size), mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0].clamp(0, 1)


def _middle(height: int, width: int) -> tuple[int, int, int]:
    """(top, left, side) of the largest square there."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def _each(images: Sequence[Any] | Tensor) -> Sequence[Any] | Tensor:
    """One image that stands without a list around it is a list of one."""
    single = isinstance(images, Image.Image) or (isinstance(images, Tensor | np.ndarray) and images.ndim == 3)
    return [images] if single else images


def _refuse_twins(classes: Iterable[str]) -> None:
    classes = list(classes)
    if UNKNOWN in classes:
        raise ExamplesError(f"a class is called {UNKNOWN!r}, which is the answer for images of no class; rename it")
    alone = [normal_form(safe_names([name])[0]) for name in classes]
    for index, name in enumerate(alone):
        nameless = name == "token" and classes[index] not in classes[:index]  # such as "!" and "?": they are numbered
        if name in alone[:index] and not nameless:
            raise ExamplesError(
                f"classes {classes[alone.index(name)]!r} and {classes[index]!r} become the same token name {name!r}; rename one"
            )
