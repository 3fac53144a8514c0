"""Images and classifiers of the tiny model."""

import pytest
import torch

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.classifiers.hybrid import HybridClassifier


@pytest.fixture(scope="module")
def images(dataset):
    return torch.stack(list(dataset.load(32)))


@pytest.fixture
def classifiers(tiny_host, tokens):
    return {
        "clip": ClipClassifier(tiny_host, tokens),
        "hybrid": HybridClassifier(tiny_host, tokens),
        "diffusion": DiffusionClassifier(tiny_host, tokens, num_trials=6, alpha=0.3),
    }
