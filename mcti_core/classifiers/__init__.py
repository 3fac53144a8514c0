"""Classifiers that learned tokens make."""

from .base import UNKNOWN, Classifier, Prediction, Scores, predict
from .cascade import CascadeClassifier
from .clip import ClipClassifier
from .diffusion import DiffusionClassifier
from .hybrid import HybridClassifier

__all__ = [
    "UNKNOWN",
    "CascadeClassifier",
    "Classifier",
    "ClipClassifier",
    "DiffusionClassifier",
    "HybridClassifier",
    "Prediction",
    "Scores",
    "predict",
]
