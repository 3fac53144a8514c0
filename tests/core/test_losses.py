import math
from functools import partial

import pytest
import torch

from mcti_core.errors import ConfigError
from mcti_core.losses import DIRECTIONS, class_logits, classification_loss


@pytest.fixture
def logits():
    return 3 * torch.randn(5, 5, generator=torch.Generator().manual_seed(0))


def _cross_entropy(row, target):
    return math.log(sum(math.exp(x) for x in row)) - row[target]


def test_class_logits_by_plain_loops():
    generator = torch.Generator().manual_seed(0)
    text, images = torch.randn(2, 8, generator=generator), 5 * torch.randn(3, 8, generator=generator)
    logits = class_logits(text, images, 10.0)
    for i in range(2):
        for j in range(3):
            cosine = float(text[i] @ images[j]) / math.sqrt(float(text[i] @ text[i]) * float(images[j] @ images[j]))
            assert float(logits[i, j]) == pytest.approx(10 * cosine, abs=1e-5)
    assert torch.allclose(class_logits(7 * text, images / 3, 10.0), logits, atol=1e-5)


@pytest.mark.parametrize("classes", [[0, 1, 2, 3, 4], [1, 3], [4]])
def test_by_plain_loops(logits, classes):
    rows, index = logits[classes], torch.tensor(classes)
    own = rows[:, classes].T
    by_text = [_cross_entropy(rows[i].tolist(), c) for i, c in enumerate(classes)]
    by_image = [_cross_entropy(own[i].tolist(), i) for i in range(len(classes))]
    assert classification_loss(rows, index, "text_to_image").tolist() == pytest.approx(by_text, rel=1e-5)
    assert classification_loss(rows, index, "image_to_text").tolist() == pytest.approx(by_image, rel=1e-5, abs=1e-6)
    both = [(a + b) / 2 for a, b in zip(by_text, by_image, strict=True)]
    assert classification_loss(rows, index, "symmetric").tolist() == pytest.approx(both, rel=1e-5, abs=1e-6)


def test_directions_are_each_others_transpose(logits):
    every = torch.arange(5)
    assert torch.allclose(
        classification_loss(logits, every, "image_to_text"), classification_loss(logits.T, every, "text_to_image")
    )
    assert torch.allclose(
        classification_loss(logits, every, "symmetric"), classification_loss(logits.T, every, "symmetric")
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_permuting_classes_permutes_losses(logits, direction):
    order = torch.tensor([3, 0, 4, 1, 2])
    every = torch.arange(5)
    assert torch.allclose(
        classification_loss(logits[order][:, order], every, direction),
        classification_loss(logits, every, direction)[order],
        atol=1e-6,
    )


def test_least_where_texts_point_at_their_own_images():
    loss = partial(classification_loss, classes=torch.arange(3))
    for direction in DIRECTIONS:
        assert loss(20 * torch.eye(3), direction=direction).max() < 1e-6
        assert loss(torch.zeros(3, 3), direction=direction).tolist() == pytest.approx([math.log(3)] * 3)


def test_unknown_direction(logits):
    with pytest.raises(ConfigError, match="text_to_image, image_to_text, symmetric"):
        classification_loss(logits, torch.arange(5), "sideways")
