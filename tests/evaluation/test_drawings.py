import itertools

import pytest
import torch
import torch.nn.functional as F

from mcti_core.evaluation.drawings import image_measures


def test_image_measures_by_plain_loops(task):
    generator = torch.Generator().manual_seed(5)
    features = F.normalize(torch.randn(9, task.pool_features.shape[1], generator=generator), dim=-1)
    wanted = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3])
    found = image_measures(task, features, wanted)
    real = [float(f @ r) for f, c in zip(features, wanted, strict=True) for r in task.pool_features[task.pool.labels == c]]  # fmt: skip
    assert found["clip_i"] == pytest.approx(sum(real) / len(real), abs=1e-5)  # each class has as many real images
    distances = [
        [1 - float(a @ b) for a, b in itertools.combinations(features[wanted == c], 2)] for c in (0, 1, 3)
    ]  # of class 2 there is one image
    assert found["diversity"] == pytest.approx(sum(sum(d) / len(d) for d in distances) / 3, abs=1e-5)
    assert found["agreement"] == pytest.approx(float((task.judge(features) == wanted).double().mean()))


def test_single_images_have_no_diversity(task):
    assert "diversity" not in image_measures(task, task.query_features[:2], torch.tensor([0, 1]))


def test_the_same_image_again_has_none_to_speak_of(task):
    same = task.query_features[:1].expand(4, -1)
    assert image_measures(task, same, torch.zeros(4, dtype=torch.long))["diversity"] == pytest.approx(0, abs=1e-6)
