import pytest
import torch

from mcti_core.evaluation.data_sets import ImageSet, split_by_thirds
from mcti_core.evaluation.tasks import Protocol, prepared
from mcti_core.training.config import TrainConfig

BASE = TrainConfig(steps=2, batch_size=3, lr=0.01, classification_only_steps=0, templates=("a photo of a {}",))


@pytest.fixture(scope="session")
def image_set() -> ImageSet:
    """Four classes of nine random images; cat and dog are words of the tiny model."""
    generator = torch.Generator().manual_seed(3)
    images = list(torch.rand(36, 3, 32, 32, generator=generator))
    return split_by_thirds("toy", ("cat", "dog", "bowl", "cat dog"), (images, torch.arange(36) % 4))


@pytest.fixture(scope="session")
def task(tiny_host, image_set):
    protocol = Protocol(
        BASE, hflip=False, released_steps=2, pool=5, diffusion_queries=8, num_trials=2, drawings=3, drawing_steps=2
    )
    return prepared(image_set, tiny_host, protocol)
