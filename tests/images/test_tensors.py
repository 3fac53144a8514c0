import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mcti_core.classifiers.base import Scores, predictions
from mcti_core.classifiers.cascade import CascadeClassifier
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.classifiers.hybrid import HybridClassifier
from mcti_core.data.dataset import FewShotDataset
from mcti_core.errors import ConfigError, ExamplesError
from mcti_core.images.tensors import as_batch, as_image, in_range
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.loop import train

BYTES = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
FLOATS = BYTES.float() / 255
ARRAY = BYTES.permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    "image",
    [
        BYTES,
        ARRAY,
        BYTES.numpy(),
        FLOATS.numpy(),
        ARRAY.astype(">f4") / np.float32(255),
        Image.fromarray(ARRAY),
        FLOATS,
    ],
)
def test_as_image_of_every_kind_gives_the_same_floats(image):
    assert torch.equal(as_image(image, "it"), FLOATS)
    data = FewShotDataset.from_images({"a": image, "b": [image, image]})
    assert data.labels.tolist() == [0, 1, 1]
    assert all(torch.equal(loaded, FLOATS) for loaded in data.load(32))
    direct = FewShotDataset(("a", "b"), (image, image), torch.tensor([0, 1]))
    assert direct.fingerprint() == data.pick([0, 1]).fingerprint()


def test_as_image_with_transparency_lays_it_on_white():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert as_image(clear, "it").min() == 1


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (BYTES.float(), "divide values"), (FLOATS - 0.5, "outside"), (FLOATS.where(FLOATS < 0.5, torch.nan), "not finite"),
        (FLOATS.where(FLOATS < 0.5, -torch.inf), "not finite"), (BYTES.long(), "int64"), (BYTES.numpy().astype(int), "int64"),
        (2 * FLOATS - 1, "map values from -1 to 1"), (FLOATS[0], "repeat a grey image's channel"), (FLOATS[:1], "repeat a grey"), (np.array(["x"]), "type"),
        (FLOATS.to_sparse(), "make it dense"), (FLOATS.to("meta"), "make it dense"),
        (FLOATS.to(torch.float8_e4m3fn), "float8"), (FLOATS.to(torch.complex64), "complex64"), (Image.new("F", (4, 4)), "mode F"), (7, "int"),
    ],
)  # fmt: skip
def test_as_image_of_another_kind_is_refused_in_one_short_sentence(image, sentence):
    with pytest.raises(ExamplesError, match=sentence) as caught:
        as_image(image, "it")
    assert len(str(caught.value)) < 200


def test_as_batch_leaves_floats_alone_and_makes_one_image_a_batch():
    batch = FLOATS[None].clone()
    assert as_batch(batch) is batch
    assert torch.equal(as_batch(BYTES), batch)
    assert as_batch(batch.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("method", ["clip", "hybrid", "diffusion", "cascade"])
def test_score_of_bytes_is_that_of_floats_and_nan_is_refused(tiny_host, tokens, method):
    classifier = {
        "clip": lambda: ClipClassifier(tiny_host, tokens),
        "hybrid": lambda: HybridClassifier(tiny_host, tokens),
        "diffusion": lambda: DiffusionClassifier(tiny_host, tokens, num_trials=2),
        "cascade": lambda: CascadeClassifier(
            ClipClassifier(tiny_host, tokens), DiffusionClassifier(tiny_host, tokens, num_trials=2)
        ),
    }[method]()
    expected = classifier.scores(FLOATS[None]).logits
    assert expected.isfinite().all()
    for images in (BYTES, BYTES[None], FLOATS, ARRAY, Image.fromarray(ARRAY)):
        assert torch.equal(classifier.scores(images).logits, expected)
    for images in (BYTES.float(), FLOATS * torch.nan):
        with pytest.raises(ExamplesError):
            classifier.scores(images)


@pytest.mark.parametrize(
    "images",
    [
        [FLOATS, FLOATS], (BYTES, BYTES), [ARRAY, Image.fromarray(ARRAY)], [FLOATS.numpy(), BYTES], np.stack([ARRAY, ARRAY]),
        torch.stack([BYTES, BYTES]), np.stack([BYTES.numpy()] * 2).astype("f4") / np.float32(255),
    ],
)  # fmt: skip
def test_as_batch_of_lists_and_arrays_is_the_batch(images):
    assert torch.equal(as_batch(images), torch.stack([FLOATS, FLOATS]))


@pytest.mark.parametrize("kind", [ClipClassifier, HybridClassifier, DiffusionClassifier])
def test_score_of_a_list_and_of_one_image_are_those_of_the_batch(tiny_host, tokens, kind):
    classifier = kind(tiny_host, tokens, **({"num_trials": 2} if kind is DiffusionClassifier else {}))
    whole = classifier.scores(torch.stack([FLOATS, 1 - FLOATS])).logits
    assert torch.allclose(classifier.scores([ARRAY, 1 - FLOATS]).logits, whole, atol=1e-4)
    assert torch.allclose(classifier.scores(Image.fromarray(ARRAY)).logits, whole[:1], atol=1e-4)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([], "got none"), ([FLOATS, FLOATS[:, :16]], "32 x 16 and 32 x 32"), ([FLOATS, "x"], "image 1 is of type str"), ([FLOATS, FLOATS[None]], "image 1 has the shape"),
        ([[FLOATS]], "image 0 is of type list"), ([FLOATS, FLOATS * torch.nan], "image 1 has values that are not finite"), (np.zeros((2, 8, 8)), "shape"), (FLOATS[None, :1], "repeat a grey image's channel"),
        (np.zeros((1, 2, 8, 8, 3)), "shape"), ({"a": FLOATS}, "type dict"), (None, "NoneType"),
        (FLOATS[None][:0], "one image at least"), (np.zeros((0, 8, 8, 3), np.uint8), "one image at least"), (torch.rand(1, 3, 0, 5), "one image at least"),
    ],
)  # fmt: skip
def test_as_batch_of_another_kind_is_refused_in_one_short_sentence(images, sentence):
    with pytest.raises(ExamplesError, match=sentence) as caught:
        as_batch(images)
    assert len(str(caught.value)) < 200


def test_in_range_beyond_takes_values_a_little_outside_and_no_others():
    for value in (-0.4, 1.4):
        assert in_range(torch.tensor([value]), "it", 0.5) == torch.tensor([value])
    for value, remedy in ((255.0, "by 255"), (2.0, "by 255"), (-1.0, "x / 2")):
        with pytest.raises(ExamplesError, match=remedy):
            in_range(torch.tensor([value]), "it", 0.5)
    assert in_range(torch.tensor([255, 0], dtype=torch.uint8), "it", 0.5).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": math.nan},
        {"threshold": 50.0},
        {"threshold": -0.1},
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"top": 0},
    ],
)
def test_predict_out_of_range_is_refused(options):
    with pytest.raises(ConfigError, match="got"):
        predictions(("a", "b"), Scores(torch.zeros(1, 2), torch.zeros(1).long()), **options)


def test_predict_of_scores_for_other_classes_is_refused():
    with pytest.raises(ConfigError, match=r"shape \(1, 3\); for 2 labels"):
        predictions(("a", "b"), Scores(torch.zeros(1, 3), torch.zeros(1).long()))


def test_messages_about_many_classes_name_the_first_ones(tiny_host, cache, tokens):
    labels = tuple(f"{'long ' * 100}{number}" for number in range(1000))
    many = TokenSet(labels, {"clip_l": torch.zeros(1000, 1, 32)})
    examples = replace(cache, classes=labels[::-1])
    for fails in (
        lambda: train(tiny_host, examples, many),
        lambda: train(tiny_host, replace(cache, classes=labels), many, classes=[0] * 1000),
    ):
        with pytest.raises(ConfigError) as caught:
            fails()
        assert len(str(caught.value)) < 2000
        assert "988 more" in str(caught.value)
