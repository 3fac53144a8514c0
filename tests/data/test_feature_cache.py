import json
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from mcti_core.data import feature_cache
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.errors import ConfigError, ExamplesError

from ..fake_processes import together


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2):
            pixels = random.integers(0, 255, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def build(tiny_host, folder, tmp_path):
    """Build a cache of the folder, kept on disk; returns it and how many images were sent through the models."""

    def build(host=tiny_host, **options):
        done = []
        examples, options["progress"] = FewShotDataset.from_folder(folder), lambda n, _: done.append(n)
        return FeatureCache.build(host, examples, folder=tmp_path / "kept", **options), (done or [0])[-1]

    return build


def test_shapes_and_length(cache):
    assert cache.latents.shape == (9, 2, 4, 8, 8)
    assert cache.features.shape == (9, 2, 16)
    assert torch.allclose(cache.features.norm(dim=-1), torch.ones(9, 2))
    assert cache.latents.dtype == cache.features.dtype == torch.float32
    assert not cache.latents.is_inference()
    assert len(cache) == 9


def test_values_are_the_models_own(cache, dataset, tiny_host):
    images = torch.stack(list(dataset.load(32)))
    with torch.no_grad():
        feature_cache = F.normalize(tiny_host.clip.image_features(images), dim=-1)
        latents = tiny_host.codec.encode(images)
    assert torch.allclose(cache.features[:, 0], feature_cache, atol=1e-5)
    assert torch.allclose(cache.latents[:, 0], latents, atol=1e-5)


def test_mirror_view_is_that_of_the_flipped_image(cache, dataset, tiny_host):
    flipped = FewShotDataset(dataset.classes, tuple(image.flip(-1) for image in dataset.images), dataset.labels)
    other = FeatureCache.build(tiny_host, flipped)
    assert torch.allclose(other.features.flip(1), cache.features, atol=1e-5)
    assert torch.allclose(other.latents.flip(1), cache.latents, atol=1e-5)


def test_batch_size_does_not_matter(cache, dataset, tiny_host):
    other = FeatureCache.build(tiny_host, dataset, batch_size=2)
    assert torch.allclose(other.features, cache.features, atol=1e-5)
    assert torch.allclose(other.latents, cache.latents, atol=1e-5)
    assert other.fingerprint == cache.fingerprint


def test_support_is_of_the_images_themselves(cache):
    support = cache.support()
    assert torch.equal(support.features, cache.features[:, 0])
    assert torch.equal(support.labels, cache.labels)


def test_kept_results_are_read_again_and_equal(build):
    (first, computed), (second, again) = build(), build()
    assert (computed, again) == (4, 0)
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.labels, second.labels)
    assert first.fingerprint == second.fingerprint


def test_one_pixel_makes_kept_results_invalid(build, folder):
    before, _ = build()
    path = folder / "b" / "1.png"
    image = Image.open(path).copy()
    image.putpixel((20, 20), tuple(255 - value for value in image.getpixel((20, 20))))
    image.save(path)
    after, computed = build()
    assert computed == 4
    assert after.fingerprint != before.fingerprint
    assert torch.equal(after.latents[:3], before.latents[:3])
    assert not torch.equal(after.latents[3], before.latents[3])


def test_other_settings_make_kept_results_invalid(build, tiny_host):
    marks = {build()[0].fingerprint}
    for options in ({"hflip": False}, {"size": 16}, {"latents": False}, {"host": replace(tiny_host, fingerprint="x")}):
        cache, computed = build(**options)
        assert computed == 4
        marks.add(cache.fingerprint)
    assert len(marks) == 5
    assert build(hflip=False)[0].latents.shape[1] == 1


def test_labels_count(build, folder):
    before, _ = build()
    (folder / "a" / "1.png").rename(folder / "b" / "+.png")  # the same images in the same order
    after, computed = build()
    assert computed == 4
    assert after.fingerprint != before.fingerprint


def test_damaged_results_are_recomputed(build, tmp_path):
    first, _ = build()
    (path,) = (tmp_path / "kept").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    second, computed = build()
    assert computed == 4
    assert torch.equal(first.latents, second.latents)
    assert build()[1] == 0


class Noted(FewShotDataset):
    """Examples that tell when they are read, and that ``broken`` ones cannot be."""

    broken = ()

    def load(self, size, rows=None):
        for row, image in zip(rows, super().load(size, rows), strict=True):
            if row in self.broken:
                raise ExamplesError(f"image {row} is broken")
            self.read[row].set()
            yield image


@pytest.fixture
def noted(dataset):
    noted = Noted(dataset.classes, dataset.images, dataset.labels)
    object.__setattr__(noted, "read", [threading.Event() for _ in range(len(dataset))])
    return noted


def _readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("mcti-reader")]


def test_the_next_images_are_read_while_the_models_are_busy(tiny_host, noted, dataset):
    """One batch ahead, and no more: memory holds two. The numbers are the same to the bit."""

    class Busy:
        def encode(self, images):
            encoded.append(len(images))
            for row in range(min(len(noted), 2 + sum(encoded))):
                assert noted.read[row].wait(10)
            assert sum(event.is_set() for event in noted.read) <= 2 + sum(encoded)
            return tiny_host.codec.encode(images)

        downscale = tiny_host.codec.downscale

    encoded = []
    other = FeatureCache.build(replace(tiny_host, codec=Busy()), noted, batch_size=2, hflip=False)
    assert encoded == [2, 2, 2, 2, 1]
    with torch.inference_mode():
        alone = [tiny_host.codec.encode(part) for part in torch.stack(list(dataset.load(32))).split(2)]
    assert torch.equal(other.latents[:, 0], torch.cat(alone))
    assert not _readers()


@pytest.mark.parametrize("row", [0, 4, 8])
def test_an_image_that_cannot_be_read_ends_it_after_the_batches_before(tiny_host, noted, row):
    done = []
    object.__setattr__(noted, "broken", (row,))
    with pytest.raises(ExamplesError, match=f"image {row} is broken"):
        FeatureCache.build(tiny_host, noted, batch_size=2, progress=lambda n, _: done.append(n))
    assert done == list(range(2, row + 1, 2))
    assert not _readers()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whoever_breaks_it_off_leaves_no_thread(tiny_host, noted, error):
    def fail(done, total):
        raise error

    with pytest.raises(error) as caught:
        FeatureCache.build(tiny_host, noted, batch_size=2, progress=fail)
    assert not _readers()
    assert caught  # its traceback holds all that was being done


def test_what_the_host_lacks_is_left_out(dataset, tiny_host):
    assert FeatureCache.build(replace(tiny_host, codec=None), dataset).latents is None
    bare = FeatureCache.build(replace(tiny_host, clip=None), dataset)
    assert bare.features is None
    assert bare.support() is None
    assert bare.latents is not None
    assert FeatureCache.build(tiny_host, dataset, latents=False).latents is None


@pytest.mark.parametrize("examples", ["folder", {"a": [torch.rand(3, 8, 8)]}, None])
def test_build_of_anything_but_a_dataset_is_refused(tiny_host, examples):
    with pytest.raises(ExamplesError, match="takes a FewShotDataset, got"):
        FeatureCache.build(tiny_host, examples)


def test_size_must_fit_the_autoencoder(dataset, tiny_host):
    with pytest.raises(ConfigError, match="34 is not a multiple of 4"):
        FeatureCache.build(tiny_host, dataset, size=34)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_processes_share_the_batches_and_all_have_all(tiny_host, dataset, tmp_path, count, monkeypatch):
    """To the bit, and no image is sent through a model twice; also where there are fewer batches than processes."""
    alone = FeatureCache.build(tiny_host, dataset, batch_size=2)
    encode, seen = type(tiny_host.codec).encode, []

    def counted(self, images):
        seen.append(len(images))
        return encode(self, images)

    plain, written = feature_cache._write, []
    monkeypatch.setattr(feature_cache, "_write", lambda *arguments: (written.append(1), plain(*arguments)))
    monkeypatch.setattr(type(tiny_host.codec), "encode", counted)

    def build(processes):
        return FeatureCache.build(tiny_host, dataset, batch_size=2, folder=tmp_path, processes=processes)

    caches = together(count, build)
    assert sum(seen) == 2 * len(dataset)  # with its mirror image
    for cache in caches:
        assert torch.equal(cache.latents, alone.latents)
        assert torch.equal(cache.features, alone.features)
        assert cache.fingerprint == alone.fingerprint
    assert len(written) == len(list(tmp_path.iterdir())) == 1
    together(count, build)
    assert sum(seen) == 2 * len(dataset)  # the file was read


def test_a_file_that_only_one_process_sees_is_computed_by_all(tiny_host, dataset, tmp_path):
    """As where machines share no folder; none waits for the others."""
    FeatureCache.build(tiny_host, dataset, folder=tmp_path / "0")

    def build(processes):
        return FeatureCache.build(tiny_host, dataset, folder=tmp_path / str(processes.index), processes=processes)

    first, second = together(2, build)
    assert torch.equal(first.latents, second.latents)


@pytest.mark.parametrize(
    "other",
    [
        {"latents": torch.zeros(4, 2, 5, 8, 8)}, {"latents": torch.zeros(4, 2, 7)}, {"features": torch.zeros(4, 2, 3)}, {"features": torch.zeros(4, 2)},
        {"thumbnails": torch.zeros(4, 2, 1)}, {"latents": torch.full((4, 2, 4, 8, 8), 1e30)}, {"latents": torch.zeros(4, 2, 4, 8, 8).half()},
    ],
)  # fmt: skip
def test_kept_features_that_cannot_be_of_these_models_are_recomputed(build, tmp_path, other):
    cache, _ = build()
    (path,) = (tmp_path / "kept").iterdir()
    save_file({**load_file(path), **other}, path, metadata={"format": "mcti-features"})
    again, done = build()
    assert done == 4
    assert torch.equal(again.latents, cache.latents)
    assert torch.equal(again.features, cache.features)


def test_kept_features_of_another_size_are_not_read(build, tmp_path, monkeypatch):
    """A sparse file of 2.4 GB took 9.6 GiB."""
    build()
    (path,) = (tmp_path / "kept").iterdir()
    stored = load_file(path)
    header = {"__metadata__": {"format": "mcti-features"}}
    places = {"latents": [4, 2, 2**24], **{name: list(stored[name].shape) for name in ("features", "thumbnails")}}
    end = 0
    for name, shape in places.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    monkeypatch.setattr(feature_cache, "load_file", lambda path: pytest.fail("it is read"))
    assert build()[1] == 4
