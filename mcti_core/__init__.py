"""MC-TI: multi-class textual inversion. Teach a frozen text-to-image model many unnamed things; generate and classify them.

The names below load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "classifiers.base": ("Classifier", "Prediction"),
    "classifiers.calibration": ("calibrated_classifier",),
    "classifiers.cascade": ("CascadeClassifier",),
    "classifiers.clip": ("ClipClassifier",),
    "classifiers.diffusion": ("DiffusionClassifier",),
    "classifiers.hybrid": ("HybridClassifier",),
    "data.dataset": ("FewShotDataset",),
    "data.feature_cache": ("FeatureCache",),
    "errors": ("MCTIError",),
    "evaluation.estimator": ("TrainableClassifier",),
    "evaluation.few_shot": ("evaluate",),
    "hosts.base": ("Host",),
    "hosts.diffusers.host": ("load_host",),
    "hosts.diffusers.pipelines": ("add_to_pipeline", "host_from_pipeline"),
    "pocket": ("load_pocket",),
    "sampling": ("generate",),
    "tokens.io": ("export_embeddings", "import_embeddings", "load_tokens", "save_tokens"),
    "tokens.ops": ("merge", "rename", "select"),
    "tokens.token_set": ("TokenSet",),
    "training.config": ("TrainConfig",),
    "training.errors": ("StopTraining",),
    "training.extend": ("add_classes",),
    "training.initial": ("new_tokens",),
    "training.loop": ("TrainResult", "train"),
}
"""Module -> its public names."""
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = ["__version__", *_MODULES]

if TYPE_CHECKING:
    from .classifiers.base import Classifier as Classifier
    from .classifiers.base import Prediction as Prediction
    from .classifiers.calibration import calibrated_classifier as calibrated_classifier
    from .classifiers.cascade import CascadeClassifier as CascadeClassifier
    from .classifiers.clip import ClipClassifier as ClipClassifier
    from .classifiers.diffusion import DiffusionClassifier as DiffusionClassifier
    from .classifiers.hybrid import HybridClassifier as HybridClassifier
    from .data.dataset import FewShotDataset as FewShotDataset
    from .data.feature_cache import FeatureCache as FeatureCache
    from .errors import MCTIError as MCTIError
    from .evaluation.estimator import TrainableClassifier as TrainableClassifier
    from .evaluation.few_shot import evaluate as evaluate
    from .hosts.base import Host as Host
    from .hosts.diffusers.host import load_host as load_host
    from .hosts.diffusers.pipelines import add_to_pipeline as add_to_pipeline
    from .hosts.diffusers.pipelines import host_from_pipeline as host_from_pipeline
    from .pocket import load_pocket as load_pocket
    from .sampling import generate as generate
    from .tokens.io import export_embeddings as export_embeddings
    from .tokens.io import import_embeddings as import_embeddings
    from .tokens.io import load_tokens as load_tokens
    from .tokens.io import save_tokens as save_tokens
    from .tokens.ops import merge as merge
    from .tokens.ops import rename as rename
    from .tokens.ops import select as select
    from .tokens.token_set import TokenSet as TokenSet
    from .training.config import TrainConfig as TrainConfig
    from .training.errors import StopTraining as StopTraining
    from .training.extend import add_classes as add_classes
    from .training.initial import new_tokens as new_tokens
    from .training.loop import TrainResult as TrainResult
    from .training.loop import train as train


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
