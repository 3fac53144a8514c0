from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.example_files import find_images
from mcti_core.errors import ExamplesError
from mcti_core.images.reading import load_image, to_square


def _picture(path: Path, colour="red", size=(8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def _raising(error):
    def call(*arguments, **options):
        raise error

    return call


@pytest.fixture
def folder(tmp_path):
    """Classes "B" (3 images), "a" (2), "c" (4), with things beside them that are no examples."""
    for name, count in (("a", 2), ("B", 3), ("c", 4)):
        for i in range(count):
            _picture(tmp_path / name / f"{i}.png", (10 * i, 0, 0))
    _picture(tmp_path / ".hidden" / "x.png")
    _picture(tmp_path / "a" / ".x.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "readme.md").write_text("no class")
    return tmp_path


class TestFolder:
    def test_classes_and_images_are_sorted(self, folder):
        data = FewShotDataset.from_folder(folder)
        assert data.classes == ("B", "a", "c")
        assert data.labels.tolist() == [0] * 3 + [1] * 2 + [2] * 4
        assert [path.name for path in data.images[:3]] == ["0.png", "1.png", "2.png"]
        assert len(data) == 9

    def test_missing(self, tmp_path):
        with pytest.raises(ExamplesError, match="nowhere"):
            FewShotDataset.from_folder(tmp_path / "nowhere")

    def test_no_class_folders(self, tmp_path):
        with pytest.raises(ExamplesError, match="no class folders"):
            FewShotDataset.from_folder(tmp_path)

    def test_one_class(self, tmp_path):
        _picture(tmp_path / "only" / "x.png")
        with pytest.raises(ExamplesError, match="only the class folder 'only'"):
            FewShotDataset.from_folder(tmp_path)

    @pytest.mark.parametrize("twin", ["my (cat)", "My-Cat"])
    def test_two_classes_of_one_name(self, folder, twin):
        for name in ("my cat", twin):
            _picture(folder / name / "x.png")
        with pytest.raises(ExamplesError, match="my cat") as caught:
            FewShotDataset.from_folder(folder)
        assert twin in str(caught.value)

    def test_two_classes_whose_names_look_alike_are_shown_with_their_characters(self, folder):
        """A Mac writes é as two characters, most other systems as one."""
        for name in ("caf\u00e9", "cafe\u0301"):
            _picture(folder / name / "0.png")
        with pytest.raises(ExamplesError, match=r"'cafe\\u0301' and 'caf\\xe9'.*into one folder"):
            FewShotDataset.from_folder(folder)

    def test_classes_without_letters_are_distinguished(self, tmp_path):
        for name in ("!", "+"):
            _picture(tmp_path / name / "x.png")
        assert FewShotDataset.from_folder(tmp_path).classes == ("!", "+")

    def test_find_images(self, folder):
        assert [path.name for path in find_images(folder / "a")] == ["0.png", "1.png"]
        assert find_images(folder / "readme.md") == [folder / "readme.md"]


class TestMemory:
    def test_label_order_is_the_dicts(self):
        data = FewShotDataset.from_images({"z": torch.rand(2, 3, 4, 4), "a": [torch.rand(3, 4, 5)]})
        assert data.classes == ("z", "a")
        assert data.labels.tolist() == [0, 0, 1]

    @pytest.mark.parametrize(
        "image",
        [torch.rand(4, 4, 3), torch.zeros(3, 4, 4, dtype=torch.int64), np.zeros((4, 4)), 2 * torch.ones(3, 4, 4)],
    )
    def test_wrong_images(self, image):
        with pytest.raises(ExamplesError, match="'bad'"):
            FewShotDataset.from_images({"good": [torch.rand(3, 4, 4)], "bad": [image]})

    @pytest.mark.parametrize("images", ["folder", Path("folder"), [torch.rand(3, 4, 4)], None])
    def test_images_without_labels_are_refused(self, images):
        with pytest.raises(ExamplesError, match=r"takes a mapping of labels to images.*from_folder"):
            FewShotDataset.from_images(images)

    @pytest.mark.parametrize("images", [5, None, "cat.png", Path("cat.png")])
    def test_images_of_a_class_that_are_no_list_are_refused_by_its_label(self, images):
        with pytest.raises(ExamplesError, match=r"images of class 'bad'.*give a list"):
            FewShotDataset.from_images({"good": [torch.rand(3, 4, 4)], "bad": images})

    def test_labels_that_are_no_texts_are_refused(self):
        with pytest.raises(ExamplesError, match="label 7 is of type int; labels are texts"):
            FewShotDataset.from_images({"a": [torch.rand(3, 4, 4)], 7: [torch.rand(3, 4, 4)]})

    def test_classes_must_differ_and_have_images(self):
        image = torch.rand(3, 4, 4)
        for classes, labels in (
            (("a",), [0, 0]), ((), []), (("a", "b"), [0, 0]), (("a", "a"), [0, 1]), (("!", "!"), [0, 1]), (("a", "b"), [0]),
        ):  # fmt: skip
            images = (image,) * max(2, len(labels))
            with pytest.raises(ExamplesError):
                FewShotDataset(classes, images, torch.tensor(labels))


class TestSplit:
    def test_disjoint_and_complete(self, folder):
        data = FewShotDataset.from_folder(folder)
        support, query = data.split(1, seed=3)
        assert set(support.images).isdisjoint(query.images)
        assert set(support.images) | set(query.images) == set(data.images)
        assert torch.bincount(support.labels).tolist() == [1, 1, 1]
        assert support.classes == query.classes == data.classes
        own = dict(zip(data.images, data.labels.tolist(), strict=True))
        for part in (support, query):
            assert [own[image] for image in part.images] == part.labels.tolist()

    def test_nested_in_shots_and_seeded(self):
        data = FewShotDataset.from_images({name: torch.rand(20, 3, 2, 2) for name in "ab"})
        chosen = [{id(image) for image in data.split(shots, seed=1)[0].images} for shots in (1, 2, 4, 8)]
        assert all(few < many for few, many in pairwise(chosen))
        assert chosen[3] == {id(image) for image in data.split(8, seed=1)[0].images}
        assert chosen[3] != {id(image) for image in data.split(8, seed=2)[0].images}

    def test_too_few(self, folder):
        with pytest.raises(ExamplesError, match="'a' has 2 images"):
            FewShotDataset.from_folder(folder).split(2)
        with pytest.raises(ExamplesError, match="at least 1"):
            FewShotDataset.from_folder(folder).split(0)


class TestLoad:
    def test_values(self, tmp_path):
        image = load_image(_picture(tmp_path / "x.png", (255, 0, 51), size=(5, 7)))
        assert image.shape == (3, 7, 5)
        assert image.dtype == torch.float32
        assert torch.allclose(image[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]))

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_transparency_is_laid_on_white(self, tmp_path, mode):
        image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
        image.putpixel((0, 0), (0, 0, 0, 0))
        image.convert(mode).save(tmp_path / "x.png")
        assert load_image(tmp_path / "x.png").tolist() == [[[1.0, 0.0]]] * 3

    def test_transparent_palette_entry(self, tmp_path):
        image = Image.new("P", (2, 1))
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.putpixel((1, 0), 1)
        image.save(tmp_path / "x.png", transparency=0)
        assert load_image(tmp_path / "x.png").tolist() == [[[1.0, 0.0]]] * 3

    def test_half_transparency(self, tmp_path):
        Image.new("RGBA", (1, 1), (255, 0, 0, 51)).save(tmp_path / "x.png")
        assert load_image(tmp_path / "x.png").flatten().tolist() == pytest.approx([1, 0.8, 0.8], abs=1 / 255)

    def test_other_kinds_become_rgb(self, tmp_path):
        for mode, suffix in (("L", "png"), ("1", "bmp"), ("CMYK", "jpg")):
            Image.new("RGB", (8, 8), "white").convert(mode).save(tmp_path / f"x.{suffix}")
            assert torch.allclose(load_image(tmp_path / f"x.{suffix}"), torch.ones(3, 8, 8), atol=0.02)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
    def test_truncated(self, tmp_path, suffix):
        path = tmp_path / f"cut.{suffix}"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:-400])
        with pytest.raises(ExamplesError, match=f"cut.{suffix}"):
            load_image(path)

    def test_missing(self, tmp_path):
        with pytest.raises(ExamplesError, match="no such file"):
            load_image(tmp_path / "x.png")

    @pytest.mark.parametrize(
        ("error", "reason"),
        [(KeyError("tag"), "'tag'"), (AssertionError(), "AssertionError"), (MemoryError(), "not enough memory")],
    )
    def test_whatever_pillow_raises(self, tmp_path, monkeypatch, error, reason):
        monkeypatch.setattr(Image.Image, "crop", _raising(error))
        with pytest.raises(ExamplesError, match=rf"x\.png cannot be read as an image \({reason}\)") as caught:
            load_image(_picture(tmp_path / "x.png"))
        assert caught.value.__cause__ is error

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
    def test_what_ends_the_program_passes_through(self, tmp_path, monkeypatch, error):
        monkeypatch.setattr(Image.Image, "crop", _raising(error))
        with pytest.raises(type(error)):
            load_image(_picture(tmp_path / "x.png"))

    def test_dataset_loads_squares(self, folder):
        for image in FewShotDataset.from_folder(folder).load(16):
            assert image.shape == (3, 16, 16)
            assert 0 <= image.min() <= image.max() <= 1


def test_square_is_cut_from_the_middle():
    wide = torch.rand(3, 4, 10)
    assert torch.equal(to_square(wide, 4), wide[:, :, 3:7])
    assert torch.equal(to_square(wide.transpose(1, 2), 4), wide[:, :, 3:7].transpose(1, 2))
    assert torch.allclose(to_square(torch.full((3, 9, 5), 0.3), 7), torch.full((3, 7, 7), 0.3))


class TestFingerprint:
    def test_equal_for_equal_content(self, folder):
        assert FewShotDataset.from_folder(folder).fingerprint() == FewShotDataset.from_folder(folder).fingerprint()

    def test_changes_with_content_label_and_shape(self, folder):
        data = FewShotDataset.from_folder(folder)
        marks = {data.fingerprint(), FewShotDataset(data.classes, data.images, data.labels.flip(0)).fingerprint()}
        _picture(folder / "a" / "0.png", (1, 0, 0))
        marks.add(data.fingerprint())
        for shape in ((3, 2, 8), (3, 4, 4)):
            marks.add(FewShotDataset.from_images({"a": [torch.zeros(shape)], "b": [torch.zeros(shape)]}).fingerprint())
        assert len(marks) == 5

    def test_missing_file(self, folder):
        data = FewShotDataset.from_folder(folder)
        (folder / "a" / "0.png").unlink()
        with pytest.raises(ExamplesError, match=r"0\.png"):
            data.fingerprint()
