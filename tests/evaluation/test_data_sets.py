"""Every data set in its real layout on disk, with a few images whose grey level encodes the class."""

from __future__ import annotations

import json
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcti_core.errors import ExamplesError, MCTIError
from mcti_core.evaluation.data_sets import DATA_SETS, at_most, load_folder, load_known, split_by_thirds
from mcti_core.evaluation.ucf101 import middle_frame
from mcti_core.images.reading import load_square
from mcti_core.images.tensors import as_image

TORCHVISION = Path(sys.prefix) / "torchvision-only"
"""Where .ci/run puts it if PyTorch is a CPU build and torchvision is not: apart, since transformers imports it wherever it is installed."""
KEPT = []
pytestmark = pytest.mark.usefixtures("torchvision")
GREY = 60
"""Levels between the grey of one class and of the next."""


def picture(path, label):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (GREY * label,) * 3).save(path)


def pictures(place, names, numbers=(1, 2)):
    """Write each class's pictures. ``place(label, name, number)`` is the path of one. Returns what ``place`` gave, with labels."""
    files = [(place(label, name, n), label) for label, name in enumerate(names) for n in numbers]
    for path, label in files:
        picture(path, label)
    return files


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def flowers102(data):
    from scipy.io import savemat

    labels = [1, 2, 3, 1, 2, 3, 3, 2]
    for number, label in enumerate(labels, 1):
        picture(data / f"flowers-102/jpg/image_{number:05d}.jpg", label - 1)
    savemat(data / "flowers-102/imagelabels.mat", {"labels": labels})
    savemat(data / "flowers-102/setid.mat", {"trnid": [1, 2, 3], "valid": [7], "tstid": [4, 5, 6, 8]})
    return ["pink primrose", "hard-leaved pocket orchid", "canterbury bells"], [0, 1, 2], [0, 1, 2, 1]


def imagenet(data):
    names = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish",)}
    (data / "imagenet").mkdir()
    torch.save((names, []), data / "imagenet/meta.bin")
    for part, numbers in (("train", (0, 1)), ("val", (0,))):
        pictures(lambda _, code, n, part=part: data / f"imagenet/{part}/{code}/{code}_{n}.JPEG", names, numbers)
    return ["tench", "goldfish"], [0, 0, 1, 1], [0, 1]


def food101(data):
    foods = ("apple_pie", "baby_back_ribs")
    for part, numbers in (("train", (1, 2)), ("test", (3,))):
        pictures(lambda _, food, n: data / f"food-101/images/{food}/{n}.jpg", foods, numbers)
        files = {food: [f"{food}/{number}" for number in numbers] for food in foods}
        write(data / f"food-101/meta/{part}.json", json.dumps(files))
    return ["apple pie", "baby back ribs"], [0, 0, 1, 1], [0, 1]


def pets(data):
    folder = data / "oxford-iiit-pet"
    for part, numbers in (("trainval", (1, 2)), ("test", (3,))):
        files = pictures(lambda _, pet, n: folder / f"images/{pet}_{n}.jpg", ("Abyssinian", "great_pyrenees"), numbers)
        lines = [f"{file.stem} {label + 1} {label + 1} 1\n" for file, label in files]
        write(folder / f"annotations/{part}.txt", "".join(lines))
    return ["Abyssinian", "Great Pyrenees"], [0, 0, 1, 1], [0, 1]


def aircraft(data):
    folder, planes = data / "fgvc-aircraft-2013b/data", ("707-320", "A340-300")
    for part, numbers in (("trainval", (1, 2)), ("test", (3,))):
        files = pictures(lambda label, _, n: folder / f"images/{label}{n:06d}.jpg", planes, numbers)
        lines = [f"{file.stem} {planes[label]}\n" for file, label in files]
        write(folder / f"images_variant_{part}.txt", "".join(lines))
    write(folder / "variants.txt", "707-320\nA340-300\n")
    return list(planes), [0, 0, 1, 1], [0, 1]


def cars(data):
    from scipy.io import savemat

    names = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"]
    folder = data / "stanford_cars"
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.array([("00001.jpg", 1), ("00002.jpg", 2)], dtype=[("fname", object), ("class", np.uint8)])
        for name, label in rows:
            picture(folder / f"cars_{part}" / name, int(label) - 1)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        savemat(folder / file, {"annotations": rows})
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(names, dtype=object)})
    return names, [0, 1], [0, 1]


def ucf101(data):
    names = ["ApplyEyeMakeup", "YoYo"]
    lists = data / "ucf101/ucfTrainTestlist"
    write(lists / "classInd.txt", "".join(f"{number} {name}\n" for number, name in enumerate(names, 1)))
    for part, clip in (("train", "g08_c01"), ("test", "g01_c02")):
        files = [f"{name}/v_{name}_{clip}.avi" for name in names]
        ends = [f" {label}" if part == "train" else "" for label in (1, 2)]
        (lists / f"{part}list01.txt").write_text("".join(f"{f}{end}\n" for f, end in zip(files, ends, strict=True)))
        for label, file in enumerate(files):
            video(data / "ucf101/UCF-101" / file, label)
    return ["Apply Eye Makeup", "Yo Yo"], [0, 1], [0, 1]


def video(path, label, frames=7):
    """White but for the middle frame."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=25, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuvj420p"
        for number in range(frames):
            grey = GREY * label if number == frames // 2 else 255
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), grey, np.uint8))
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def eurosat(data):
    pictures(lambda _, name, n: data / f"eurosat/2750/{name}/{name}_{n}.jpg", ("AnnualCrop", "Forest"), range(1, 7))
    return ["Annual Crop", "Forest"], [0] * 4 + [1] * 4, [0, 0, 1, 1]


def dtd(data):
    folder = data / "dtd/dtd"
    for part, numbers in (("train", (1, 2)), ("val", (3,)), ("test", (4,))):
        files = pictures(
            lambda _, name, n: folder / f"images/{name}/{name}_{n:04d}.jpg", ("banded", "zigzagged"), numbers
        )
        lines = [f"{file.relative_to(folder / 'images')}\n" for file, _ in files]
        write(folder / f"labels/{part}1.txt", "".join(lines))
    return ["banded", "zigzagged"], [0, 0, 1, 1], [0, 1]


def caltech101(data):
    folder, names = data / "caltech101/101_ObjectCategories", ("Faces_easy", "accordion")
    picture(folder / "BACKGROUND_Google/image_0001.jpg", 3)
    pictures(lambda _, name, n: folder / name / f"image_{n:04d}.jpg", names, range(1, 4))
    return ["Faces easy", "accordion"], [0, 0, 1, 1], [0, 1]


def stl10(data):
    folder = data / "stl10_binary"
    folder.mkdir()
    names = ["airplane", "bird", "car"]
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    for part, labels in (("train", [0, 2, 1]), ("test", [1, 2])):
        pixels = np.ones((len(labels), 3, 96, 96)) * GREY * np.reshape(labels, (-1, 1, 1, 1))
        pixels.astype(np.uint8).tofile(folder / f"{part}_X.bin")
        (np.array(labels, np.uint8) + 1).tofile(folder / f"{part}_y.bin")
    return names, [0, 2, 1], [1, 2]


def cifar10(data):
    folder = data / "cifar-10-batches-py"
    folder.mkdir()
    names = ["airplane", "automobile"]
    for file, labels in {**{f"data_batch_{n}": [n % 2] for n in range(1, 6)}, "test_batch": [1, 0]}.items():
        pixels = (np.ones((len(labels), 3072)) * GREY * np.reshape(labels, (-1, 1))).astype(np.uint8)
        (folder / file).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return names, [1, 0, 1, 0, 1], [1, 0]


LAYOUTS = {each.__name__: each for each in (
    flowers102, imagenet, food101, pets, aircraft, cars, ucf101, eurosat, dtd, caltech101, stl10, cifar10,
)}  # fmt: skip


@pytest.fixture(scope="module")
def torchvision():
    """Its data sets need none of its compiled functions; only their declarations must be there."""
    if find_spec("torchvision") is None:
        if not TORCHVISION.is_dir():
            pytest.skip("needs torchvision")
        sys.path.append(str(TORCHVISION))
        KEPT.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            KEPT[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import datasets

    return datasets


@pytest.fixture
def unhashed(monkeypatch, torchvision):
    """Our files have other hashes than the originals, by which torchvision knows three of the data sets."""
    for module in ("flowers102", "stl10", "cifar"):
        monkeypatch.setattr(sys.modules[f"torchvision.datasets.{module}"], "check_integrity", lambda *given: True)


@pytest.mark.parametrize("name", DATA_SETS)
def test_load_known_real_layout_gives_classes_and_images(name, tmp_path, unhashed):
    names, train, test = LAYOUTS[name](tmp_path)
    found = load_known(name, tmp_path)
    assert list(found.classes[: len(names)]) == names
    assert found.own_test == (name not in ("eurosat", "caltech101"))
    for (images, labels), wanted in ((found.train, train), (found.test, test)):
        assert labels.tolist() == wanted
        for image, label in zip(images, wanted, strict=True):
            assert shade(image) == pytest.approx(GREY * label, abs=3)


def shade(image):
    image = middle_frame(image)
    pixels = as_image(image, "it") if isinstance(image, np.ndarray) else load_square(image, 8)
    return 255 * float(pixels.mean())


def test_middle_frames_made_by_others_are_found_by_the_videos_names(tmp_path):
    ucf101(tmp_path)
    folder = tmp_path / "ucf101/UCF-101-midframes/Apply_Eye_Makeup"
    picture(folder / "v_ApplyEyeMakeup_g08_c01.jpg", 3)
    images, _ = load_known("ucf101", tmp_path).train
    assert images[0] == folder / "v_ApplyEyeMakeup_g08_c01.jpg"
    assert images[1].suffix == ".avi"


def test_a_class_of_ucf101_is_no_path(tmp_path):
    ucf101(tmp_path)
    lists = tmp_path / "ucf101/ucfTrainTestlist"
    (lists / "classInd.txt").write_text("1 ..\n2 YoYo\n")
    with pytest.raises(MCTIError, match="not a plain name"):
        load_known("ucf101", tmp_path)


@pytest.mark.parametrize("name", DATA_SETS)
def test_load_known_missing_says_what_belongs_where(name, tmp_path):
    with pytest.raises(MCTIError) as told:
        load_known(name, tmp_path)
    assert str(tmp_path / DATA_SETS[name][1]) in str(told.value)
    assert DATA_SETS[name][4] in str(told.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", DATA_SETS)
def test_load_known_damaged_is_an_error_of_ours(name, tmp_path):
    """Also where its hash is not the original's: pickles of others are not opened."""
    LAYOUTS[name](tmp_path)
    files = [path for path in sorted((tmp_path / DATA_SETS[name][1]).rglob("*")) if path.is_file()]
    for file in files:
        if file.suffix not in (".jpg", ".JPEG", ".avi"):
            file.write_bytes(b"\0damaged")
    if name in ("eurosat", "caltech101"):  # folders of images only
        for file in files[1:]:
            file.unlink()
    with pytest.raises(MCTIError):
        load_known(name, tmp_path)


def test_load_folder_with_train_and_test(tmp_path):
    for part, numbers in (("train", (1, 2)), ("test", (3,))):
        pictures(lambda _, pet, n, part=part: tmp_path / f"pets/{part}/{pet}/{n}.png", ("cat", "dog"), numbers)
    found = load_folder(tmp_path / "pets")
    assert (found.name, found.classes, found.own_test) == ("pets", ("cat", "dog"), True)
    assert (found.train[1].tolist(), found.test[1].tolist()) == ([0, 0, 1, 1], [0, 1])
    picture(tmp_path / "pets/test/fox/0.png", 1)
    with pytest.raises(ExamplesError, match="different class folders"):
        load_folder(tmp_path / "pets")


def test_split_by_thirds_parts_every_class():
    labels = torch.tensor([0] * 9 + [1] * 2 + [2] * 4)
    found = split_by_thirds("x", ("a", "b", "c"), (list(range(15)), labels))
    assert torch.bincount(found.test[1]).tolist() == [3, 1, 1]
    assert sorted([*found.train[0], *found.test[0]]) == list(range(15))
    for images, own in (found.train, found.test):
        assert labels[list(images)].tolist() == own.tolist()
    assert not found.own_test
    with pytest.raises(ExamplesError, match="class 'b' has 1 image"):
        split_by_thirds("x", ("a", "b"), ([0, 1, 2], torch.tensor([0, 0, 1])))


def test_at_most_is_random_but_the_same():
    labels = torch.randint(0, 4, (80,), generator=torch.Generator().manual_seed(0))
    chosen = at_most(labels, [3, 0, 100, 1])
    assert torch.equal(chosen, at_most(labels, [3, 0, 100, 1]))
    assert torch.bincount(labels[chosen], minlength=4).tolist() == [3, 0, int((labels == 2).sum()), 1]
    assert not torch.equal(chosen, at_most(labels, [3, 0, 100, 1], seed=1))
