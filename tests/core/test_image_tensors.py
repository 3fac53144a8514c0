import numpy as np
import pytest
import torch
from PIL import Image

from mcti_core.classifiers.cascade import CascadeClassifier
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.classifiers.hybrid import HybridClassifier
from mcti_core.errors import ExamplesError
from mcti_core.examples import FewShotDataset
from mcti_core.image_tensors import as_batch, as_image

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
        (FLOATS[0], "shape"), (np.array(["x"]), "type"), (Image.new("F", (4, 4)), "mode F"), (7, "int"),
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
    assert as_batch(batch[:0]).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("method", ["clip", "hybrid", "diffusion", "cascade"])
def test_score_of_bytes_is_that_of_floats_and_nan_is_refused(tiny_host, tokens, method):
    classifier = {
        "clip": lambda: ClipClassifier(tiny_host, tokens),
        "hybrid": lambda: HybridClassifier(tiny_host, tokens),
        "diffusion": lambda: DiffusionClassifier(tiny_host, tokens, pairs=2),
        "cascade": lambda: CascadeClassifier(
            ClipClassifier(tiny_host, tokens), DiffusionClassifier(tiny_host, tokens, pairs=2)
        ),
    }[method]()
    expected = classifier.score(FLOATS[None]).logits
    assert expected.isfinite().all()
    for images in (BYTES, BYTES[None], FLOATS, ARRAY, Image.fromarray(ARRAY)):
        assert torch.equal(classifier.score(images).logits, expected)
    for images in (BYTES.float(), FLOATS * torch.nan):
        with pytest.raises(ExamplesError):
            classifier.score(images)
