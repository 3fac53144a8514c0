import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from mcti_core.classifiers.base import Scores
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.data.near_duplicates import (
    across_classes,
    across_split,
    describe_across_classes,
    example_names,
    first_alike,
    thumbnails,
)
from mcti_core.errors import HostError
from mcti_core.evaluation.few_shot import Row, evaluate, markdown_table
from mcti_core.pocket.digits import digit_dataset
from mcti_core.training.loop import TrainConfig


def picture(seed: int, size: int = 96) -> Image.Image:
    """Blots of colour on a ground, as a photograph has them."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 255, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def saved(image: Image.Image, kind: str, **options) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def alike(*images: Image.Image) -> list[int]:
    return first_alike(torch.cat([thumbnails(tensor(image)[None]) for image in images])).tolist()


COPIES = {
    "itself": lambda image: image,
    "a poor JPEG": lambda image: saved(image, "JPEG", quality=30),
    "WebP": lambda image: saved(image, "WEBP", quality=60),
    "a GIF of 256 colours": lambda image: image.quantize(256),
    "half the size": lambda image: image.resize((48, 48), Image.Resampling.LANCZOS),
    "twice the size": lambda image: image.resize((192, 192)),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.15),
    "a little darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "a margin of one pixel cut off": lambda image: image.crop((1, 1, image.width - 1, image.height - 1)),
}


@pytest.mark.parametrize("how", COPIES)
def test_first_alike_of_a_copy_is_its_original(how):
    for seed in range(5):
        original = picture(seed)
        assert alike(picture(seed + 100), original, COPIES[how](original)) == [0, 1, 1], seed


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (picture(1), picture(2)),
        (picture(1), picture(1).transpose(Image.Transpose.ROTATE_90)),
        (Image.new("RGB", (64, 64), "black"), Image.new("RGB", (64, 64), "white")),
        (Image.new("RGB", (64, 64), (200, 0, 0)), Image.new("RGB", (64, 64), (0, 0, 200))),
        (Image.new("RGB", (64, 64), "white"), picture(3)),
    ],
)
def test_first_alike_of_different_images_is_themselves(first, second):
    assert alike(first, second) == [0, 1]


@pytest.mark.slow
def test_first_alike_finds_no_two_digits_the_same():
    """All 1,797: strokes on a plain ground, where a coarser look takes many for copies."""
    digits = torch.stack([image for image in digit_dataset().images if isinstance(image, torch.Tensor)])
    assert first_alike(thumbnails(digits)).tolist() == list(range(len(digits)))


def test_first_alike_of_many_parts_is_that_of_one(monkeypatch):
    looks = thumbnails(torch.stack([tensor(picture(seed % 7)) for seed in range(40)]))
    whole = first_alike(looks)
    assert whole.tolist() == [seed % 7 for seed in range(40)]
    monkeypatch.setattr("mcti_core.data.near_duplicates._PAIRS_PER_CHUNK", 80)
    assert torch.equal(first_alike(looks), whole)


def test_across_classes_pairs_each_image_with_one_of_every_other_class():
    groups, labels = torch.tensor([0, 0, 0, 3, 3, 5, 0]), torch.tensor([0, 0, 1, 1, 1, 2, 2])
    assert across_classes(groups, labels) == [(0, 2), (0, 6)]
    assert across_classes(torch.arange(7), labels) == []


def test_across_split_pairs_each_query_with_its_copy_in_the_support():
    groups = torch.tensor([0, 1, 0, 3, 1, 0])
    assert across_split(groups, torch.tensor([0, 3]), torch.tensor([1, 2, 4, 5])) == [(0, 2), (0, 5)]


def test_tell_across_classes_names_files_and_images_in_memory(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        picture(1).save(tmp_path / name / "same.png")
    names = example_names(FewShotDataset.from_folder(tmp_path))
    assert names == ["cat/same.png", "dog/same.png"]
    sentence = describe_across_classes(torch.tensor([0, 0]), torch.tensor([0, 1]), names)
    assert "1 image is in more than one class" in sentence
    assert "cat/same.png and dog/same.png" in sentence
    images = torch.rand(2, 3, 8, 8)
    assert example_names(FewShotDataset.from_images({"a": images, "b": images})) == [
        "image 1 (a)", "image 2 (a)", "image 3 (b)", "image 4 (b)",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def copied(tiny_host):
    """Two classes of four images, of which each is there twice."""
    images = torch.stack([tensor(picture(seed, 32)) for seed in range(4)])
    return FeatureCache.build(
        tiny_host, FewShotDataset.from_images({"a": images[[0, 0, 1, 1]], "b": images[[2, 2, 3, 3]]})
    )


def test_evaluate_counts_queries_that_are_copies_of_examples(tiny_host, copied):
    config = TrainConfig(steps=1, batch_size=2, lr=0.01, templates=("a {}",))
    rows = evaluate(tiny_host, copied, [3], [0], config, recipes=())
    assert {(row.near_duplicates, row.queries) for row in rows} == {(2, 2)}
    assert "| (test images that are copies of examples) | 100.0 |" in markdown_table(rows, 0.5)
    clean = replace(copied, thumbnails=None)
    assert {row.near_duplicates for row in evaluate(tiny_host, clean, [3], [0], config, recipes=())} == {0}


def test_markdown_table_without_copies_has_no_line_for_them():
    assert "copies" not in markdown_table([Row("x", 1, 0, 0.5, 4, 0.0)], 0.5)


def test_kept_features_find_copies_too(tiny_host, tmp_path):
    images = torch.stack([tensor(picture(seed, 32)) for seed in (0, 1, 0)])
    dataset = FewShotDataset.from_images({"a": images[:2], "b": images[2:]})
    for mirror in (True, False):
        for _ in range(2):
            cache = FeatureCache.build(tiny_host, dataset, folder=tmp_path, hflip=mirror)
            assert cache.alike.tolist() == [0, 1, 0]
            assert cache.pick(torch.tensor([2, 1])).alike.tolist() == [0, 1]


@pytest.mark.parametrize("part", ["clip", "codec"])
def test_features_that_are_not_numbers_are_refused_with_the_image(tiny_host, part):
    broken = SimpleNamespace(
        image_features=lambda images: torch.full((len(images), 16), float("nan")),
        encode=lambda images: torch.full((len(images), 4, 8, 8), float("inf")),
        downscale=4,
        encoder="clip_l",
    )
    dataset = FewShotDataset.from_images({"a": torch.rand(1, 3, 32, 32), "b": torch.rand(1, 3, 32, 32)})
    with pytest.raises(HostError, match=r"2 of 2 images, image 1 \(a\) among them, are not numbers"):
        FeatureCache.build(replace(tiny_host, **{part: broken}), dataset)


@pytest.mark.parametrize("row", [0, 1])
def test_scores_that_are_not_numbers_are_an_error(row):
    logits = torch.zeros(2, 3)
    logits[row, 2] = float("nan")
    with pytest.raises(HostError, match="scores are not numbers"):
        Scores(logits, torch.zeros(2, dtype=torch.long))
    Scores(torch.full((1, 2), -float("inf")), torch.zeros(1))  # of a class that is out of the running


def test_clip_classifier_of_features_that_are_not_numbers_answers_nothing(tiny_host, tokens):
    with pytest.raises(HostError, match="not numbers"):
        ClipClassifier(tiny_host, tokens).logits(torch.full((2, 16), float("nan")))
