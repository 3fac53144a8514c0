"""Token training as a scikit-learn estimator, for cross-validation and hyperparameter search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..classifiers.base import Classifier, Scores
from ..classifiers.calibration import calibrated_classifier
from ..data.dataset import FewShotDataset
from ..data.feature_cache import FeatureCache
from ..errors import ConfigError
from ..hosts.base import Host
from ..training.config import TrainConfig
from ..training.initial import new_tokens
from ..training.loop import train

__all__ = ["TrainableClassifier"]


class TrainableClassifier(Classifier):
    """A classifier whose ``fit`` trains tokens. Clones by scikit-learn share the host.

    Args:
        host: the model; its weights are not copied.
        config: training settings. Example of a grid: ``{"config": [TrainConfig(gamma=g) for g in (0.1, 1.0)]}``.
        method: classification method, one of ``classifiers.METHODS``.
        num_vectors: number of vectors per token.
        hflip: whether to train on horizontally flipped images too.

    Attributes:
        tokens_: trained ``TokenSet``; set by ``fit``.
    """

    def __init__(
        self, host: Host, config: TrainConfig = TrainConfig(), *, method: str = "auto", num_vectors: int = 1, hflip: bool = True
    ):  # fmt: skip
        self.host, self.config, self.method, self.num_vectors, self.hflip = host, config, method, num_vectors, hflip
        self.image_size = host.image_size

    def fit(self, images: Iterable[Any], labels: Sequence[Any]) -> TrainableClassifier:
        """Train one token per label.

        Args:
            images: N paths or images, as in ``FewShotDataset.images``.
            labels: (N,) strings; other values are converted to strings.

        Raises:
            ExamplesError, ConfigError, HostError, TrainingError: as ``FewShotDataset`` and ``train``.
        """
        texts = [str(label) for label in labels]
        classes = sorted(set(texts))
        paths = tuple(Path(image) if isinstance(image, str) else image for image in images)
        dataset = FewShotDataset(tuple(classes), paths, torch.tensor([classes.index(text) for text in texts]))
        cache = FeatureCache.build(self.host, dataset, hflip=self.hflip)
        first = new_tokens(self.host, dataset.classes, num_vectors=self.num_vectors, seed=self.config.seed)
        self.tokens_ = train(self.host, cache, first, self.config).tokens
        self._fitted = calibrated_classifier(self.method, self.host, self.tokens_)
        self.labels, self.temperature = self._fitted.labels, self._fitted.temperature
        return self

    def scores(self, images: Any) -> Scores:
        if not hasattr(self, "_fitted"):
            raise ConfigError("this classifier has learned nothing yet; call fit(images, labels) first")
        return self._fitted.scores(images)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Constructor arguments, for scikit-learn."""
        return {name: getattr(self, name) for name in ("host", "config", "method", "num_vectors", "hflip")}

    def set_params(self, **params: Any) -> TrainableClassifier:
        """Set constructor arguments, or raise a ``ConfigError`` for an unknown name."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ConfigError(f"{name!r} is not one of {', '.join(self.get_params())}")
            setattr(self, name, value)
        return self

    def __sklearn_clone__(self) -> TrainableClassifier:
        return type(self)(**self.get_params())
