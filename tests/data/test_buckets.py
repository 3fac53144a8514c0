from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcti_core.data.buckets import bucket_of, bucket_sizes, rows_by_size
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.errors import ConfigError
from mcti_core.images.reading import to_size


@pytest.mark.parametrize(("size", "step"), [(512, 64), (768, 64), (1024, 64), (64, 16), (32, 8)])
def test_bucket_sizes_keep_area_and_step(size, step):
    sizes = bucket_sizes(size, 4)
    assert (size, size) in sizes
    assert all(h * w <= size**2 < (h + step) * (w + step) for h, w in sizes)
    assert all(side % step == 0 and size / 2 <= side <= 2 * size for pair in sizes for side in pair)
    assert {(w, h) for h, w in sizes} == set(sizes)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_bucket_of_an_image_is_the_nearest_in_aspect_ratio(height, width):
    sizes = bucket_sizes(512, 8)
    chosen = bucket_of(height, width, sizes)
    distance = lambda pair: max(pair[0] * width, pair[1] * height) / min(pair[0] * width, pair[1] * height)  # noqa: E731
    assert distance(chosen) == pytest.approx(min(map(distance, sizes)))
    assert bucket_of(width, height, sizes) == chosen[::-1]


def test_bucket_sizes_of_too_small_images_are_refused():
    with pytest.raises(ConfigError, match="need an image size that is a multiple of"):
        bucket_sizes(24, 8)


def test_rows_by_size_are_all_rows_once():
    sizes = torch.tensor([[8, 8], [4, 16], [8, 8], [16, 4]])
    found = {size: rows.tolist() for size, rows in rows_by_size(sizes)}
    assert found == {(8, 8): [0, 2], (4, 16): [1], (16, 4): [3]}


@pytest.fixture
def shapes():
    """Images of several aspect ratios, in memory."""
    generator = torch.Generator().manual_seed(1)
    return FewShotDataset.from_images(
        {
            "a": [torch.rand(3, 32, 32, generator=generator), torch.rand(3, 40, 80, generator=generator)],
            "b": [torch.rand(3, 90, 48, generator=generator)],
        }
    )


@pytest.fixture
def bucketed(tiny_host, shapes):
    return FeatureCache.build(tiny_host, shapes, buckets=True)


def test_cache_with_buckets_holds_each_image_at_its_own_size(tiny_host, shapes, bucketed):
    sizes = [bucket_of(*image.shape[1:], bucket_sizes(32, 4)) for image in shapes.images]
    assert bucketed.sizes.tolist() == [[h // 4, w // 4] for h, w in sizes]
    assert len(set(sizes)) == 3
    for image, (height, width), latents in zip(shapes.images, sizes, bucketed.latents, strict=True):
        view = to_size(image, height, width)
        with torch.no_grad():
            expected = torch.stack([tiny_host.codec.encode(each[None])[0] for each in (view, view.flip(-1))])
        found = latents[..., : height // 4, : width // 4]
        assert torch.allclose(found, expected, atol=1e-5)
        assert latents.count_nonzero() == found.count_nonzero()


def test_cache_with_buckets_keeps_the_features_of_squares(tiny_host, shapes, bucketed):
    square = FeatureCache.build(tiny_host, shapes)
    assert torch.equal(bucketed.features, square.features)
    assert bucketed.fingerprint != square.fingerprint
    assert square.sizes is None


def test_stored_cache_with_buckets_is_read_again(tiny_host, shapes, tmp_path):
    done = []
    first, again = (
        FeatureCache.build(tiny_host, shapes, buckets=True, folder=tmp_path, progress=lambda n, _: done.append(n))
        for _ in range(2)
    )
    assert done == [3]
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.sizes, again.sizes)


def test_picked_examples_keep_sizes_masks_and_captions(bucketed):
    whole = replace(bucketed, masks=torch.rand(3, 2, 16, 16), captions=("{}", "", "{} x"))
    picked = whole.pick(torch.tensor([2, 0]))
    assert torch.equal(picked.sizes, whole.sizes[[2, 0]])
    assert torch.equal(picked.masks, whole.masks[[2, 0]])
    assert picked.captions == ("{} x", "{}")
