"""MC-TI: multi-class textual inversion. Teach a frozen text-to-image model many unnamed things; generate and classify them.

The names below load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "MCTIError": "errors",
    "StopTraining": "training.errors",
    "Host": "hosts.base",
    "load_host": "hosts.diffusers.host",
    "host_from_pipeline": "hosts.diffusers.pipelines",
    "add_to_pipeline": "hosts.diffusers.pipelines",
    "load_pocket": "pocket",
    "FewShotDataset": "data.dataset",
    "FeatureCache": "data.feature_cache",
    "TrainConfig": "training.config",
    "TrainResult": "training.loop",
    "new_tokens": "training.initial",
    "train": "training.loop",
    "add_classes": "training.extend",
    "TokenSet": "tokens.token_set",
    "save_tokens": "tokens.io",
    "load_tokens": "tokens.io",
    "import_embeddings": "tokens.io",
    "export_embeddings": "tokens.io",
    "merge": "tokens.ops",
    "select": "tokens.ops",
    "rename": "tokens.ops",
    "Classifier": "classifiers.base",
    "Prediction": "classifiers.base",
    "calibrated_classifier": "classifiers.calibration",
    "ClipClassifier": "classifiers.clip",
    "DiffusionClassifier": "classifiers.diffusion",
    "CascadeClassifier": "classifiers.cascade",
    "HybridClassifier": "classifiers.hybrid",
    "generate": "sampling",
    "evaluate": "evaluation.benchmark",
    "TrainableClassifier": "evaluation.estimator",
}

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
    from .evaluation.benchmark import evaluate as evaluate
    from .evaluation.estimator import TrainableClassifier as TrainableClassifier
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

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
