"""MC-TI: multi-class textual inversion. Teach a frozen text-to-image model many unnamed things; generate and classify them.

The names below load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "MCTIError": "errors",
    "TokenSet": "tokens",
    "save_tokens": "token_files",
    "load_tokens": "token_files",
    "FewShotDataset": "examples",
    "FeatureCache": "features",
    "TrainConfig": "config",
    "TrainResult": "training",
    "train": "training",
    "new_tokens": "experiments",
    "generate": "sampling",
    "ClipClassifier": "classifiers",
    "DiffusionClassifier": "classifiers",
    "CascadeClassifier": "classifiers",
    "HybridClassifier": "classifiers",
    "predict": "classifiers",
    "load_pocket": "pocket",
}

if TYPE_CHECKING:
    from .classifiers import CascadeClassifier, ClipClassifier, DiffusionClassifier, HybridClassifier, predict
    from .config import TrainConfig
    from .errors import MCTIError
    from .examples import FewShotDataset
    from .experiments import new_tokens
    from .features import FeatureCache
    from .pocket import load_pocket
    from .sampling import generate
    from .token_files import load_tokens, save_tokens
    from .tokens import TokenSet
    from .training import TrainResult, train

__all__ = [
    "CascadeClassifier",
    "ClipClassifier",
    "DiffusionClassifier",
    "FeatureCache",
    "FewShotDataset",
    "HybridClassifier",
    "MCTIError",
    "TokenSet",
    "TrainConfig",
    "TrainResult",
    "generate",
    "load_pocket",
    "load_tokens",
    "new_tokens",
    "predict",
    "save_tokens",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
