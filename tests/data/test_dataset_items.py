"""Examples from the data sets of other libraries."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from mcti_core.data.dataset import FewShotDataset
from mcti_core.errors import ExamplesError


class Pairs(Dataset):
    """Pairs as torchvision gives them, whose image is as dark as its label; it notes which are opened."""

    def __init__(self, labels, kind=lambda shade: Image.new("RGB", (8, 6), (shade,) * 3)):
        self.labels, self.kind, self.opened = labels, kind, []

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.opened.append(index)
        label = self.labels[index]
        return self.kind(20 * int(label)), label


class Named:
    names = ("cat", "dog", "eel")


class Columns(Pairs):
    """The interface of a Hugging Face data set: columns with features, and items that are mappings."""

    def __init__(self, labels, columns=("image", "label")):
        super().__init__(labels)
        self.column_names, self.features = list(columns), {columns[1]: Named()}

    def __getitem__(self, key):
        if isinstance(key, str):
            return list(self.labels)
        image, label = super().__getitem__(key)
        return dict(zip(self.column_names, (image, label), strict=True))


def shades(dataset):
    return [round(float(image.mean()) * 255 / 20) for image in dataset.images]


def test_pairs_without_names_get_their_numbers_in_order():
    dataset = FewShotDataset.from_dataset(Pairs([10, 2, 10]))
    assert dataset.classes == ("2", "10")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert shades(dataset) == [10, 2, 10]


def test_pairs_with_classes_leave_out_those_without_items():
    pairs = Pairs([2, 0, 2])
    pairs.classes = ["cat", "dog", "eel"]
    for dataset in (pairs, Subset(pairs, [0, 1, 2]), Subset(Subset(pairs, [1, 2]), [0, 1])):
        read = FewShotDataset.from_dataset(dataset)
        assert read.classes == ("cat", "eel")
        assert [read.classes[label] for label in read.labels] == [pairs.classes[n] for n in shades(read)]
    assert FewShotDataset.from_dataset(pairs, classes=["x", "y", "z"]).classes == ("x", "z")


@pytest.mark.parametrize("columns", [("image", "label"), ("img", "fine_label"), ("photo", "kind")])
def test_columns_are_found_by_their_usual_names_or_given(columns):
    names = dict(zip(("image", "label"), columns, strict=True)) if columns[0] == "photo" else {}
    read = FewShotDataset.from_dataset(Columns([1, 0, 2, 1], columns), **names)
    assert read.classes == ("cat", "dog", "eel")
    assert read.labels.tolist() == shades(read) == [1, 0, 2, 1]


def test_shots_of_a_data_set_with_a_column_of_labels_open_only_their_images():
    columns = Columns([0, 1, 2] * 50)
    read = FewShotDataset.from_dataset(columns, shots=4, seed=3)
    assert torch.bincount(read.labels).tolist() == [4, 4, 4]
    assert len(columns.opened) == 12
    assert shades(read) == read.labels.tolist()
    again = Columns([0, 1, 2] * 50)
    FewShotDataset.from_dataset(again, shots=4, seed=3)
    assert again.opened == columns.opened
    with_targets = Pairs([0, 1] * 50)
    with_targets.targets = torch.tensor(with_targets.labels)
    FewShotDataset.from_dataset(with_targets, shots=2)
    assert len(with_targets.opened) == 4


def test_tensors_and_texts_are_read_too():
    images = torch.rand(4, 3, 5, 5)
    read = FewShotDataset.from_dataset(TensorDataset(images, torch.tensor([1, 0, 1, 0])), classes=("no", "yes"))
    assert torch.equal(torch.stack(read.images), images)
    assert [read.classes[label] for label in read.labels] == ["yes", "no", "yes", "no"]
    texts = FewShotDataset.from_dataset([(np.zeros((4, 4, 3), np.uint8), name) for name in ("b", "a", "b")])
    assert (texts.classes, texts.labels.tolist()) == (("a", "b"), [1, 0, 1])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("dataset", "options", "sentence"),
    [
        (Stream(), {}, "has no numbered items"), (Pairs([0, 5]), {"classes": ["a", "b"]}, "such as 5 are none of the 2 classes"),
        (Columns([0, -1]), {}, "such as -1"), (Columns([0, 1]), {"label": "kind"}, "columns image, label; name the one"),
        (Columns([0, 1], ("scan", "label")), {}, "keys scan, label"), ([torch.zeros(3, 4, 4)], {}, "has no label"), ([], {}, "only the class"),
        (Pairs([0, 1], lambda shade: "path.png"), {}, "image 0 is of type str"), (Pairs([0, 0, 1]), {"shots": 2}, "has 1 image: too few"),
    ],
)  # fmt: skip
def test_other_data_sets_are_refused_by_one_sentence(dataset, options, sentence):
    with pytest.raises(ExamplesError, match=sentence):
        FewShotDataset.from_dataset(dataset, **options)


@pytest.mark.parametrize("label", [None, object(), ["a"], {}, np.zeros(2), torch.zeros(2), b"a"])
def test_labels_that_are_neither_texts_nor_numbers_are_refused(label):
    picture = torch.zeros(3, 4, 4)
    for classes in (None, ["a", "b"]):
        with pytest.raises(ExamplesError, match="labels are texts or whole numbers"):
            FewShotDataset.from_dataset([(picture, "a"), (picture, label)], classes=classes)


def test_labels_of_two_kinds_and_fractions_are_refused():
    picture = torch.zeros(3, 4, 4)
    with pytest.raises(ExamplesError, match="some labels of the data set are texts and others numbers"):
        FewShotDataset.from_dataset([(picture, "a"), (picture, 1)])
    for fraction in (0.5, 1.0, float("nan")):
        with pytest.raises(ExamplesError, match="none of the 2 classes"):
            FewShotDataset.from_dataset([(picture, 0), (picture, fraction)], classes=["a", "b"])


@pytest.mark.parametrize("image", [np.array(1.0), torch.tensor(1.0), np.float32(0)])
def test_a_number_in_place_of_images_is_refused(image):
    with pytest.raises(ExamplesError, match="give a list of images"):
        FewShotDataset.from_images({"a": image, "b": image})
