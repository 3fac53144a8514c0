"""A data set of the benchmark: its selected classes and images, and the features that all cells share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classifiers.logistic import LogisticRegression
from ..data.dataset import FewShotDataset, few_shot_split
from ..data.feature_cache import FeatureCache
from ..distributed import SINGLE_PROCESS, DistributedContext
from ..hosts.base import Host
from ..training.config import TrainConfig
from .data_sets import ImageSet, at_most
from .recipes import RECIPES, RELEASED, config_of
from .ucf101 import middle_frame

__all__ = ["Protocol", "Task", "prepared"]


@dataclass(frozen=True)
class Protocol:
    """Settings of the measurements, named as the options of ``mcti benchmark``."""

    base: TrainConfig
    num_vectors: int = 1
    initializer_token: str | None = None
    hflip: bool = True
    released_steps: int = int(RECIPES[RELEASED]["steps"])
    max_classes: int | None = None
    """Classes per data set; None for all."""
    max_queries: int | None = None
    """Test images per class; None for all."""
    pool: int = 32
    """Training images per class: the examples are drawn from them, and the judge of drawings is trained on them."""
    diffusion_queries: int = 100
    """Test images of the diffusion classifier, at least one per class; 0 to skip it."""
    num_trials: int = 64
    """Maximum number of pairs of noise level and noise of the diffusion classifier."""
    drawings: int = 4
    """Generated images per class; 0 to skip them."""
    drawing_steps: int = 25

    def config(self, recipe: str, seed: int) -> TrainConfig:
        """Training settings of a recipe."""
        return config_of(recipe, self.base, seed, **({"steps": self.released_steps} if recipe == RELEASED else {}))

    def describe(self) -> dict[str, str]:
        """All settings but the seed as strings, to compare two runs."""
        settings = {name: str(value) for name, value in asdict(self).items() if name != "base"}
        return settings | {name: str(value) for name, value in self.base.describe().items() if name != "seed"}


@dataclass(frozen=True)
class Task:
    """Selected classes and images of a data set. Labels are numbered: training and classifiers see no class names."""

    name: str
    names: tuple[str, ...]
    """Class names, for CLIP zero-shot only."""
    pool: FewShotDataset
    queries: FewShotDataset
    facts: Mapping[str, Any]
    """Numbers of classes and images, selected and in total, for the report."""
    host: Host
    protocol: Protocol
    folder: Path | None = None
    """Cache folder for features and latents."""

    @cached_property
    def pool_features(self) -> Tensor:
        """(N, p) float32 features of the pool, of unit length."""
        return self._features(self.pool)

    @cached_property
    def query_features(self) -> Tensor:
        """(Q, p) float32 features of the test images, of unit length."""
        return self._features(self.queries)

    def compute(self, processes: DistributedContext = SINGLE_PROCESS, progress: Any = None) -> None:
        """Compute ``pool_features`` and ``query_features``, shared among the processes."""
        for name, part in (("pool_features", self.pool), ("query_features", self.queries)):
            self.__dict__[name] = self._features(part, processes=processes, progress=progress)

    def _features(self, part: FewShotDataset, **shared: Any) -> Tensor:
        built = FeatureCache.build(self.host, part, hflip=False, latents=False, folder=self.folder, **shared)
        assert built.features is not None
        return built.features[:, 0]

    @cached_property
    def sample(self) -> FeatureCache:
        """Latents and features of the test images of the diffusion classifier."""
        each = max(1, self.protocol.diffusion_queries // len(self.names))
        subset = at_most(self.queries.labels, [each] * len(self.names))
        return FeatureCache.build(self.host, self.queries.pick(subset), hflip=False, folder=self.folder)

    @cached_property
    def judge(self) -> Callable[[Tensor], Tensor]:
        """Logistic probe trained on all real images of the pool: (B, p) features of unit length -> (B,) int64 classes."""
        probe = LogisticRegression(self.pool_features, self.pool.labels, len(self.names))
        return lambda features: probe.logits(features).argmax(1)

    def examples(self, shots: int, seed: int) -> FeatureCache:
        """Latents and features of ``shots`` random examples per class."""
        few, _ = few_shot_split(self.pool.labels, self.pool.classes, shots, seed, least_left=0)
        return FeatureCache.build(self.host, self.pool.pick(few), hflip=self.protocol.hflip, folder=self.folder)


def prepared(found: ImageSet, host: Host, protocol: Protocol, folder: Path | None = None) -> Task:
    """Select classes and images, independent of shots and seed.

    Raises:
        ExamplesError: a class has no training or no test images.
        MCTIError: a video cannot be read.
    """
    count = len(found.classes)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: protocol.max_classes]
    selected = order.sort().values.tolist()
    numbers = {label: number for number, label in enumerate(selected)}

    def part(images: Any, labels: Tensor, most: int | None) -> FewShotDataset:
        index = at_most(labels, [(most or len(labels)) if label in numbers else 0 for label in range(count)])
        pictures = tuple(middle_frame(images[i]) for i in index.tolist())
        classes = tuple(f"class {number}" for number in range(1, len(selected) + 1))
        return FewShotDataset(classes, pictures, torch.tensor([numbers[label] for label in labels[index].tolist()]))

    pool, queries = part(*found.train, protocol.pool), part(*found.test, protocol.max_queries)
    facts = {
        "classes": len(selected), "classes_in_all": count, "test_images": len(queries), "test_images_in_all": len(found.test[1]),
        "own_test": found.own_test, "training_images": len(pool), "fewest": int(torch.bincount(pool.labels).min()),
    }  # fmt: skip
    return Task(found.name, tuple(found.classes[c] for c in selected), pool, queries, facts, host, protocol, folder)
