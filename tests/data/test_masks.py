import numpy as np
import pytest
import torch
from PIL import Image

from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.data.sidecars import find_masks, latent_mask
from mcti_core.errors import ExamplesError


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of two images; the left half of a/0 is masked out."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        for number in range(2):
            save(tmp_path / "images" / name / f"{number}.png", random.integers(0, 255, (40, 40, 3)))
    mask = np.zeros((40, 40))
    mask[:, 20:] = 255
    save(tmp_path / "images" / "a" / "0-masklabel.png", mask)
    save(tmp_path / "masks" / "a" / "0.png", mask)
    return tmp_path / "images"


def test_masks_beside_images_are_no_examples(folder):
    plain, masked = FewShotDataset.from_folder(folder), FewShotDataset.from_folder(folder, masks="masklabel")
    assert len(plain) == len(masked) == 4
    assert "1 mask skipped: masks are not enabled" in plain.skipped
    assert masked.skipped == ""
    alone = save(folder / "b" / "x-masklabel.png", np.zeros((9, 9)))
    assert alone in FewShotDataset.from_folder(folder).images


def test_masks_are_found_beside_the_images_in_a_folder_or_in_their_alpha_channels(folder):
    image, other = folder / "a" / "0.png", folder / "a" / "1.png"
    assert find_masks([image, other], "masklabel") == {image: folder / "a" / "0-masklabel.png"}
    assert find_masks([image, other], folder.parent / "masks") == {image: folder.parent / "masks" / "a" / "0.png"}
    assert find_masks([image, other], "alpha") == {image: image, other: other}
    with pytest.raises(ExamplesError, match=r"no image has a mask; .*1-masklabel\.png would be"):
        find_masks([other], "masklabel")


@pytest.mark.parametrize("where", ["masklabel", "folder"])
def test_cache_has_masks_at_latent_resolution_mirrored_like_the_images(folder, tiny_host, where):
    masks = folder.parent / "masks" if where == "folder" else where
    cache = FeatureCache.build(tiny_host, FewShotDataset.from_folder(folder, masks=masks))
    expected = torch.zeros(8, 8)
    expected[:, 4:] = 1
    assert cache.masks.shape == (4, 2, 8, 8)
    assert torch.allclose(cache.masks[0], torch.stack([expected, expected.flip(-1)]), atol=0.1)
    assert cache.masks[1:].eq(1).all()
    plain = FeatureCache.build(tiny_host, FewShotDataset.from_folder(folder))
    assert torch.equal(cache.latents, plain.latents)
    assert cache.fingerprint != plain.fingerprint
    assert plain.masks is None


def test_alpha_channel_is_the_mask_and_the_image_stays_on_white(tmp_path):
    pixels = np.full((16, 16, 4), 255)
    pixels[:8, :, 3] = 0
    image = save(tmp_path / "x.png", pixels)
    assert latent_mask(image, image, (16, 16), (2, 2)).tolist() == [[0, 0], [1, 1]]
    opaque = save(tmp_path / "y.png", pixels[..., :3])
    assert latent_mask(opaque, opaque, (16, 16), (2, 2)).tolist() == [[1, 1], [1, 1]]


def test_grey_is_the_weight_of_a_mask_of_any_resolution(tmp_path):
    image = save(tmp_path / "x.png", np.zeros((64, 32, 3)))
    mask = save(tmp_path / "m.png", np.full((16, 8), 51))
    assert torch.allclose(latent_mask(image, mask, (32, 32), (4, 4)), torch.full((4, 4), 0.2))


def test_mask_of_another_shape_or_without_white_is_refused(tmp_path):
    image = save(tmp_path / "x.png", np.zeros((64, 32, 3)))
    turned = save(tmp_path / "turned.png", np.full((32, 64), 255))
    with pytest.raises(ExamplesError, match="needs the aspect ratio"):
        latent_mask(image, turned, (32, 32), (4, 4))
    black = save(tmp_path / "black.png", np.zeros((64, 32)))
    with pytest.raises(ExamplesError, match="leaves nothing to learn"):
        latent_mask(image, black, (32, 32), (4, 4))


def test_unusable_masks_are_named_in_one_error(folder, tiny_host):
    for number in range(2):
        save(folder / "b" / f"{number}-masklabel.png", np.zeros((40, 40)))
    with pytest.raises(ExamplesError, match=r"2 images cannot be read: .*0-masklabel.*1-masklabel"):
        FeatureCache.build(tiny_host, FewShotDataset.from_folder(folder, masks="masklabel"))


def test_masks_follow_the_image_into_its_bucket(tmp_path, tiny_host):
    mask = np.zeros((32, 64))
    mask[:, 32:] = 255
    for name in ("a", "b"):
        save(tmp_path / name / "0.png", np.zeros((32, 64, 3)))
        save(tmp_path / name / "0-masklabel.png", mask)
    cache = FeatureCache.build(tiny_host, FewShotDataset.from_folder(tmp_path, masks="masklabel"), buckets=True)
    (height, width), *_ = cache.sizes.tolist()
    assert width > height
    found = cache.masks[0, 0, :height, :width]
    assert found[:, : width // 2 - 1].max() < 0.1
    assert found[:, width // 2 + 1 :].min() > 0.9
