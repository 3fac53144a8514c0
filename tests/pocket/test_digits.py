import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mcti_core.data.dataset import FewShotDataset
from mcti_core.errors import FileError
from mcti_core.pocket import digits
from mcti_core.pocket.digits import DIGITS_FILE, digit_masks, draw_digits, write_class_folders


def test_the_stored_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    stored, source = load_file(DIGITS_FILE), load_digits()
    assert set(stored) == {"images", "labels"}
    assert stored["images"].dtype == stored["labels"].dtype == torch.uint8
    assert np.array_equal(stored["images"].numpy(), source.images)
    assert np.array_equal(stored["labels"].numpy(), source.target)


def test_masks_need_no_scikit_learn(monkeypatch):
    few = {name: tensor[:20] for name, tensor in load_file(DIGITS_FILE).items()}
    monkeypatch.setattr(digits, "load_file", lambda path: few)
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    masks, labels = digit_masks()
    assert (masks.shape, masks.dtype, labels.dtype) == ((20, 72, 72), torch.uint8, torch.int64)
    assert labels.tolist() == [*range(10)] * 2  # the writers were asked for them in order
    assert (masks.flatten(1).max(1).values > 200).all()


def test_a_zero_has_a_hole_and_a_one_has_none():
    masks, labels = digit_masks()
    middles = (masks[:, 33:39, 33:39].double().mean((1, 2)) / 255).numpy()
    assert middles[labels == 0].mean() < 0.15
    assert middles[labels == 1].mean() > 0.7


def test_the_same_seed_draws_the_same():
    masks = torch.zeros(3, 72, 72, dtype=torch.uint8)
    masks[:, 20:50, 30:40] = 255
    assert torch.equal(draw_digits(masks), draw_digits(masks))
    assert not torch.equal(draw_digits(masks), draw_digits(masks, seed=1))


@pytest.mark.parametrize("side", [1, 8])
def test_class_folders_hold_the_images(tmp_path, side):
    images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    write_class_folders(FewShotDataset(("a", "b"), tuple(images), torch.tensor([1, 0, 1])), tmp_path)
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert written == ["a/0001.png", "b/0000.png", "b/0002.png"]
    for name, image in zip(("b/0000", "a/0001", "b/0002"), images, strict=True):
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png")).astype(np.float32) / 255
        assert np.abs(pixels - image.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("obstacle", ["a file", "a link"])
def test_class_folders_replace_nothing(tmp_path, obstacle):
    (tmp_path / "a").mkdir()
    (tmp_path / "theirs").write_text("mine")
    path = tmp_path / "a" / "0001.png"
    path.symlink_to(tmp_path / "theirs") if obstacle == "a link" else path.write_text("mine")
    with pytest.raises(FileError, match="exists already; choose a new folder"):
        write_class_folders(FewShotDataset(("a", "b"), tuple(torch.rand(2, 3, 8, 8)), torch.tensor([1, 0])), tmp_path)
    assert path.read_text() == "mine"
    assert not (tmp_path / "b").exists()
