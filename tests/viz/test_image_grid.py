import numpy as np
import pytest
import torch

from mcti_core.errors import ConfigError
from mcti_core.viz.image_grid import image_grid


def _pixels(picture):
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    return [[torch.rand(3, 16, 16, generator=generator) for _ in range(count)] for count in (3, 1)]


@pytest.mark.parametrize("scale", [1, 3])
def test_pixels_are_the_images(rows, scale):
    sheet = _pixels(image_grid(rows, ["first", ""], scale=scale))
    expected = (rows[0][2] * 255).round().int().repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    image = expected.permute(1, 2, 0).numpy()  # (H, W, 3)
    corners = np.argwhere((sheet == image[0, 0]).all(2))
    side = 16 * scale
    assert any(np.array_equal(sheet[y : y + side, x : x + side], image) for y, x in corners)


def test_shrinking(rows):
    big, small = (
        image_grid(rows, ["", ""], scale=4),
        image_grid([[i.repeat(1, 4, 4) for i in r] for r in rows], ["", ""], scale=0.25),
    )
    assert small.width < big.width / 2


def test_labels_take_room(rows):
    plain = image_grid(rows, ["", ""])
    named = image_grid(rows, ["first 猫", "second"], ["x", "a very long heading", ""])
    assert named.width > plain.width
    assert named.height > plain.height


@pytest.mark.parametrize(
    ("rows", "labels", "options"),
    [
        ([], [], {}),
        ([[]], ["a"], {}),
        ([[torch.rand(3, 4, 4)]], [], {}),
        ([[torch.rand(3, 4, 4)]], ["a"], {"column_labels": []}),
        ([[torch.rand(4, 4, 3)]], ["a"], {}),
        ([[torch.zeros(3, 4, 4, dtype=torch.uint8)]], ["a"], {}),
        ([[torch.rand(3, 4, 4)]], ["a"], {"scale": 0.01}),
    ],
)
def test_refusals(rows, labels, options):
    with pytest.raises(ConfigError):
        image_grid(rows, labels, **options)
