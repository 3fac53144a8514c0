"""A classifier called with any kind of images, and its scikit-learn interface."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from mcti_core.classifiers.base import Classifier, Scores
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.errors import ConfigError, ExamplesError
from mcti_core.images.reading import load_square, to_square
from mcti_core.tokens.token_set import UNKNOWN


class Brightness(Classifier):
    """Tells images apart by their mean, and notes the shapes that it is given; its labels are not in sorted order."""

    labels = ("white", "black", "grey")
    image_size = 4

    def __init__(self):
        self.shapes = []

    def scores(self, images):
        self.shapes.append(tuple(images.shape))
        mean = images.mean((1, 2, 3))
        logits = -20 * (mean[:, None] - torch.tensor([1.0, 0.0, 0.5])).abs()
        return Scores(logits, torch.zeros(len(images), dtype=torch.long))


SHADES = {"white": 255, "black": 0, "grey": 128}


@pytest.fixture
def paths(tmp_path):
    """A picture per label, each of another shape."""
    for number, (label, shade) in enumerate(SHADES.items()):
        Image.new("RGB", (6 + number, 9), (shade,) * 3).save(tmp_path / f"{label}.png")
    return [tmp_path / f"{label}.png" for label in SHADES]


def test_call_with_paths_of_any_shape_reads_and_squares_them(paths):
    classifier = Brightness()
    assert [answer.label for answer in classifier(paths)] == list(SHADES)
    assert classifier.shapes == [(3, 3, 4, 4)]
    assert [answer.label for answer in classifier(str(paths[2]))] == ["grey"]
    assert len(classifier(paths[2], top=2)[0].top) == 2


@pytest.mark.parametrize(
    "kind",
    [
        Image.open, str, lambda path: np.asarray(Image.open(path)), lambda path: load_square(path, 9),
        lambda path: (load_square(path, 5) * 255).to(torch.uint8),
    ],
    ids=["Pillow", "text", "NumPy", "tensor", "bytes"],
)  # fmt: skip
def test_call_with_any_kind_of_image_gives_the_same_answer(paths, kind):
    images = [kind(path) for path in paths]
    classifier = Brightness()
    assert [answer.label for answer in classifier(images)] == list(SHADES)
    assert [classifier(image)[0].label for image in images] == list(SHADES)
    assert [answer.label for answer in classifier(iter(images))] == list(SHADES)


def test_call_with_tensors_of_the_model_gives_the_predictions_of_its_scores(tiny_host, tokens, dataset):
    classifier, batch = ClipClassifier(tiny_host, tokens), torch.stack(list(dataset.load(32)))
    logits = classifier.scores(batch).logits
    assert [answer.index for answer in classifier(batch)] == logits.argmax(1).tolist()
    larger = torch.rand(2, 3, 48, 40)
    squares = torch.stack([to_square(image, 32) for image in larger])
    assert torch.equal(torch.tensor(classifier.predict_proba(larger)), classifier.scores(squares).logits.softmax(1))


def test_call_with_very_many_paths_holds_a_part_of_them(paths):
    classifier = Brightness()
    assert len(classifier(path for path in paths * 30)) == 90
    assert [shape[0] for shape in classifier.shapes] == [32, 32, 26]


@pytest.mark.parametrize("images", [{"a": 1}, None, 3, [None], ["missing.png"], []])
def test_call_with_something_else_is_refused(images):
    with pytest.raises(ExamplesError):
        Brightness()(images)


def test_stream_answers_each_batch_of_a_loader_before_it_reads_the_next(paths):
    images, drawn = torch.stack([load_square(path, 5) for path in paths] * 2), []

    class Watched(TensorDataset):
        def __getitem__(self, index):
            drawn.append(index)
            return super().__getitem__(index)

    classifier = Brightness()
    loader = DataLoader(Watched(images, torch.arange(6)), batch_size=2)
    answers = classifier.stream(loader)
    assert drawn == []
    assert next(answers).label == "white"
    assert drawn == [0, 1]
    assert [answer.label for answer in answers] == [*SHADES, *SHADES][1:]
    assert classifier.shapes == [(2, 3, 4, 4)] * 3


@pytest.mark.parametrize(
    "wrap", [lambda b: {"image": b}, lambda b: {"img": b, "label": 1}, lambda b: b, lambda b: [b, 1]]
)
def test_stream_finds_the_images_of_a_batch(paths, wrap):
    batch = torch.stack([load_square(path, 5) for path in paths])
    assert [answer.label for answer in Brightness().stream([wrap(batch)])] == list(SHADES)
    with pytest.raises(ExamplesError, match="keys text; images are read from image"):
        list(Brightness().stream([{"text": batch}]))


def test_predict_proba_is_in_the_sorted_order_that_scikit_learn_expects(paths):
    from sklearn.metrics import log_loss, top_k_accuracy_score

    classifier, wanted = Brightness(), list(SHADES)
    assert classifier.classes_.tolist() == ["black", "grey", "white"]
    shares = classifier.predict_proba(paths)
    for row, answer in zip(shares, classifier(paths, top=3), strict=True):
        assert dict(zip(classifier.classes_.tolist(), row.tolist(), strict=True)) == pytest.approx(dict(answer.top))
    assert log_loss(wanted, shares) == pytest.approx(
        -np.log([a.confidence for a in classifier(paths)]).mean(), rel=1e-5
    )
    assert top_k_accuracy_score(wanted, shares, k=1, labels=classifier.classes_) == 1


def test_score_is_scikit_learns_accuracy_and_takes_texts_and_numbers(paths):
    from sklearn.metrics import accuracy_score, get_scorer

    classifier, wanted = Brightness(), ["white", "grey", "grey"]
    assert classifier.score(paths, wanted) == accuracy_score(wanted, classifier.predict(paths)) == pytest.approx(2 / 3)
    assert classifier.score(paths, torch.tensor([0, 2, 2])) == pytest.approx(2 / 3)
    for name in ("accuracy", "f1_macro", "balanced_accuracy", "neg_log_loss"):
        assert np.isfinite(get_scorer(name)(classifier, paths, list(SHADES)))
    classifier.threshold = 1.0
    assert classifier.predict(paths).tolist()[2] == UNKNOWN
    with pytest.raises(ConfigError, match="3 images and 2 labels"):
        classifier.score(paths, wanted[:2])
    for wrong in ([None] * 3, [float("nan")] * 3, [["a"]] * 3, [7] * 3, [object()] * 3):
        with pytest.raises(ConfigError, match="neither a text nor the index"):
            classifier.score(paths, wrong)
