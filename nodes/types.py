"""The pack's own socket types, and conversion of ComfyUI's images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..mcti_core.data.dataset import FewShotDataset
from ..mcti_core.errors import ExamplesError
from ..mcti_core.training.config import TrainConfig

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "ClipSpaceType",
    "Examples",
    "ExamplesType",
    "Settings",
    "TokensType",
    "images_in",
    "images_out",
    "picture_out",
]

ExamplesType = io.Custom("MCTI_EXAMPLES")
"""Carries ``Examples``."""
TokensType = io.Custom("MCTI_TOKENS")
"""Carries ``mcti_core.tokens.token_set.TokenSet``."""
ClipSpaceType = io.Custom("MCTI_CLIP_SPACE")
"""Carries ``mcti_core.hosts.comfy.clip_space.ClipFile``."""


@dataclass(frozen=True)
class Examples:
    """Images of classes in label order. Unlike a ``FewShotDataset`` it may have only one class, or classes without images."""

    images: Mapping[str, tuple[Path | Tensor, ...]]
    """Label -> images: each a path, or a (3, H, W) float tensor in [0, 1]."""
    size: int = 0
    """Side in pixels to which images are scaled; 0 for the size that the checkpoint was trained on."""
    captions: Mapping[Path, Path] = field(default_factory=dict)
    masks: Mapping[Path, Path] = field(default_factory=dict)
    """Captions and masks of images, as in ``FewShotDataset``."""
    buckets: bool = False
    """Whether images are trained at about their own aspect ratios."""
    held_out: Examples | None = None
    """Images of the same folder that are not trained on."""

    @classmethod
    def of(cls, dataset: FewShotDataset, size: int, index: Tensor | None = None) -> Examples:
        """All images of a dataset, or those at ``index``."""
        index = torch.arange(len(dataset)) if index is None else index
        by_class = {
            label: tuple(dataset.images[i] for i in index[dataset.labels[index] == c].tolist())
            for c, label in enumerate(dataset.classes)
        }
        return cls(by_class, size, dataset.captions, dataset.masks)

    def dataset(self) -> FewShotDataset:
        """Dataset for training, with at least two classes and at least one image per class."""
        labels = [index for index, images in enumerate(self.images.values()) for _ in images]
        flat = tuple(image for images in self.images.values() for image in images)
        if not self.images:
            raise ExamplesError("there are no examples; connect a node that gives some")
        return FewShotDataset(tuple(self.images), flat, torch.tensor(labels), captions=self.captions, masks=self.masks)

    def __len__(self) -> int:
        return sum(len(images) for images in self.images.values())


@dataclass(frozen=True)
class Settings:
    """Values of the training node's advanced inputs."""

    config: TrainConfig = field(default_factory=TrainConfig)
    num_vectors: int = 1
    initializer_token: str = ""
    """A word, "mean" or "random"; if empty, the checkpoint's own general word."""
    hflip: bool = True
    num_samples: int = 4
    """Number of classes to draw a sample of after training."""
    validation_steps: int = 0
    """Steps between samples, and between accuracies of held-out images; 0 for none."""
    validation_prompt: str = ""
    """Prompt of the samples, with ``{}`` for each class; if empty, the first template."""


def images_in(images: Tensor) -> Tensor:
    """ComfyUI's (B, H, W, C) -> (B, 3, H, W) float32 in [0, 1], a copy outside of inference mode."""
    if images.shape[-1] == 1:
        images = images.expand(*images.shape[:-1], 3)
    return images[..., :3].movedim(-1, 1).float().clamp(0, 1).clone(memory_format=torch.contiguous_format)


def images_out(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> ComfyUI's (B, H, W, 3)."""
    return images.detach().movedim(1, -1).contiguous().cpu()


def picture_out(picture: Image) -> Tensor:
    """A PIL image as an image of ComfyUI: (1, H, W, 3) float32 in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]
