from dataclasses import replace

import pytest

from mcti_core.demo import run


@pytest.fixture
def short_demo(monkeypatch):
    """Three steps of training, ten images for the diffusion classifier, and one sample per class."""
    config = replace(run.POCKET_CONFIG, steps=3, batch_size=5, classification_only_steps=0)
    for name, value in (("POCKET_CONFIG", config), ("DIFFUSION_QUERIES", 10), ("SAMPLES", 1)):
        monkeypatch.setattr(run, name, value)
