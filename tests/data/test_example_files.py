"""Each file of a folder of examples is used, or counted with the reason why not."""

import os

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.example_files import find_class_folders, find_images
from mcti_core.data.image_stream import find_image_paths
from mcti_core.errors import ExamplesError
from mcti_core.files.kinds import reader_hint
from mcti_core.files.provenance import write_json, write_png
from mcti_core.tokens.io import export_embedding, save_tokens
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.checkpoint import save_checkpoint
from tests.fuzz.seeds import training

TOKENS = TokenSet(("a", "b"), {"clip_l": torch.zeros(2, 1, 4)})
PICTURE = Image.new("RGB", (8, 6), "red")


@pytest.fixture
def photos(tmp_path):
    """Two classes of two images."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for name in ("0.png", "1.png"):
            PICTURE.save(tmp_path / label / name)
    return tmp_path


def report(folder):
    return find_class_folders(folder)[1].report()


def labels(folder):
    return [label for label, _ in find_class_folders(folder)[0]]


class TestUnused:
    @pytest.mark.parametrize(
        ("names", "sentence"),
        [
            (["a.CR3", "b.cr3"], "2 .cr3 files skipped: raw camera files, convert them to JPEG"),
            (["a.nef"], "1 .nef file skipped: raw camera files"),
            (["a.mov", "b.mov", "c.mov"], "3 .mov files skipped: videos"),
            (["a.jxl", "b.jxl"], "2 .jxl files skipped: convert them to JPEG or PNG"),
            (["a.txt"], "1 .txt file skipped: not an image"),
            (["a", "b"], "2 files without suffix skipped: not an image"),
            (["a.psd", "b.svg", "c.exr"], "1 .exr file skipped: convert them"),
        ],
    )
    def test_files_are_counted_by_kind(self, photos, names, sentence):
        for name in names:
            (photos / "cat" / name).write_bytes(b"content")
        assert sentence in report(photos)
        assert FewShotDataset.from_folder(photos).skipped == report(photos)
        assert labels(photos) == ["cat", "dog"]

    def test_one_line_names_all_kinds_and_the_most_frequent_first(self, photos):
        for name in ("a.mov", "b.mov", "c.raf", "d.docx"):
            (photos / "dog" / name).touch()
        told = report(photos)
        assert told.startswith("2 .mov files skipped: videos (the first is ")
        assert told.count("skipped") == 3
        assert "\n" not in told

    def test_heic_files_are_counted_with_what_to_install(self, photos, monkeypatch):
        monkeypatch.setattr("mcti_core.files.kinds.find_spec", lambda name: None)
        reader_hint.cache_clear()
        for name in ("a.heic", "b.HEIC", "c.heic", "d.heif"):
            (photos / "cat" / name).touch()
        assert "3 .heic files skipped: install pillow-heif, or convert to JPEG" in report(photos)
        assert "1 .heif file skipped: install pillow-heif" in report(photos)
        reader_hint.cache_clear()

    def test_nothing_is_said_where_everything_is_used(self, photos):
        for name in ("c.jfif", "d.JPE", "e.gif", "f.tiff", "g.apng"):
            PICTURE.save(photos / "cat" / name, "PNG")
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
            (photos / "cat" / name).write_bytes(b"x")
        assert report(photos) == ""
        assert len(find_images(photos / "cat")) == 7

    def test_download_without_a_suffix_is_used(self, photos):
        for name in ("photo", "photo.jpg (1)", "photo.jpg_large"):
            PICTURE.save(photos / "cat" / name, "JPEG")
        assert len(find_images(photos / "cat")) == 5
        assert report(photos) == ""

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_links_pipes_and_folders_with_names_of_images_are_reported(self, photos):
        os.mkfifo(photos / "cat" / "pipe.png")
        (photos / "cat" / "panorama.jpg").mkdir()
        (photos / "cat" / "gone.png").symlink_to(photos / "nowhere.png")
        (photos / "cat" / "loop.png").symlink_to(photos / "cat" / "loop.png")
        (photos / "cat" / "linked.png").symlink_to(photos / "dog" / "0.png")
        told = report(photos)
        assert "1 folder skipped: folders in a class folder are ignored" in told
        assert "panorama.jpg" in told
        assert "2 .png files skipped: a link that leads nowhere" in told
        assert "1 .png file skipped: not a regular file" in told
        assert [path.name for path in find_images(photos / "cat")] == ["0.png", "1.png", "linked.png"]

    def test_images_beside_the_class_folders_are_reported(self, photos):
        PICTURE.save(photos / "group.png")
        assert "1 image skipped: not in a class folder" in report(photos)

    def test_class_of_which_no_image_can_be_used_is_an_error(self, photos):
        (photos / "bird").mkdir()
        for name in ("a.cr2", "b.cr2"):
            (photos / "bird" / name).touch()
        with pytest.raises(
            ExamplesError, match=r"class 'bird' has no image that can be used: 2 \.cr2 files skipped: raw"
        ):
            find_class_folders(photos)

    def test_all_unreadable_images_are_in_one_message(self, photos):
        data = FewShotDataset.from_folder(photos)
        for path in (photos / "cat" / "0.png", photos / "dog" / "1.png"):
            path.unlink()
        with pytest.raises(ExamplesError, match=r"2 images cannot be read: .*cat.0\.png .*dog.1\.png"):
            data.fingerprint()


class TestFolders:
    @pytest.mark.parametrize(
        "name",
        ["@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__pycache__", "lost+found"],
    )
    def test_folder_of_a_system_is_no_class(self, photos, name):
        (photos / name).mkdir()
        PICTURE.save(photos / name / "x.png")
        assert labels(photos) == ["cat", "dog"]
        assert f"1 folder skipped: system folder ({photos / name})" in report(photos)
        (photos / "cat" / name).mkdir()
        PICTURE.save(photos / "cat" / name / "x.png")
        assert len(find_image_paths([photos / "cat"], recursive=True)) == 2

    @pytest.mark.parametrize("name", [".thumbnails", ".git", ".ipynb_checkpoints"])
    def test_hidden_folder_is_no_class(self, photos, name):
        (photos / name).mkdir()
        PICTURE.save(photos / name / "x.png")
        assert labels(photos) == ["cat", "dog"]

    def test_empty_class_folders_are_reported(self, photos):
        for name in ("a", "b"):
            (photos / name).mkdir()
        assert "2 folders skipped: empty" in report(photos)
        (photos / "c").mkdir()
        (photos / "c" / "notes.txt").touch()
        assert f"no images ({photos / 'c'})" in report(photos)
        assert labels(photos) == ["cat", "dog"]

    @pytest.mark.parametrize("levels", [("train",), ("train", "val"), ("photos",)])
    def test_level_above_the_class_folders_is_named(self, photos, levels):
        for level in levels:
            (photos / "all" / level).mkdir(parents=True)
            for label in ("cat", "dog"):
                (photos / "all" / level / label).mkdir()
                PICTURE.save(photos / "all" / level / label / "x.png")
        choices = " or ".join(str(photos / "all" / level) for level in levels)
        with pytest.raises(ExamplesError, match=r"\(cat, dog\); give the level above them: ") as caught:
            find_class_folders(photos / "all")
        assert str(caught.value).endswith(choices)

    def test_class_of_folders_beside_others_is_an_error(self, photos):
        (photos / "bird" / "monday").mkdir(parents=True)
        PICTURE.save(photos / "bird" / "monday" / "x.png")
        with pytest.raises(
            ExamplesError, match=r"bird contains its images only in folders \(monday\); move the images up into"
        ):
            find_class_folders(photos)

    def test_class_folders_some_levels_down_are_named(self, photos):
        for label in ("cat", "dog"):
            (photos / "all" / "data" / "v2" / "images" / label).mkdir(parents=True)
            PICTURE.save(photos / "all" / "data" / "v2" / "images" / label / "x.png")
        with pytest.raises(ExamplesError, match=r"deeper folders do; give the level above those: .*images$"):
            find_class_folders(photos / "all")

    def test_one_folder_in_each_class_folder_is_no_level(self, photos):
        (photos / "all" / "cat" / "images").mkdir(parents=True)
        PICTURE.save(photos / "all" / "cat" / "images" / "x.png")
        with pytest.raises(
            ExamplesError, match=r"cat contains its images only in folders \(images\); move the images up"
        ):
            find_class_folders(photos / "all")

    def test_folder_of_folders_is_not_called_empty(self, photos):
        (photos / "cat.photoslibrary" / "originals" / "0").mkdir(parents=True)
        PICTURE.save(photos / "cat.photoslibrary" / "originals" / "0" / "x.png")
        assert "no images in it or one level down" in report(photos)

    def test_files_of_a_folder_that_is_no_class_are_counted(self, photos):
        (photos / "z").mkdir()
        (photos / "z" / "photo.crdownload").touch()
        assert "1 .crdownload file skipped: not an image" in report(photos)

    def test_file_in_place_of_the_folder_is_reported(self, photos):
        (photos / "x.zip").touch()
        with pytest.raises(ExamplesError, match=r"x\.zip is a file; unpack it if it is an archive"):
            find_class_folders(photos / "x.zip")

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (("2021_rome", "2022_oslo"), ["2021_rome", "2022_oslo"]), (("01_cat", "02_dog"), ["01_cat", "02_dog"]), (("10_cat", "3_my dog"), ["cat", "my dog"]), (("1_cat", "2_cat"), ["1_cat", "2_cat"]), (("10_cat", "dog"), ["10_cat", "dog"]),
            (("10_", "5_x"), ["10_", "5_x"]),
        ],
    )  # fmt: skip
    def test_repeats_of_kohya_are_no_part_of_the_label(self, tmp_path, names, expected):
        for name in names:
            (tmp_path / name).mkdir()
            PICTURE.save(tmp_path / name / "x.png")
        assert labels(tmp_path) == expected
        assert ("the number of repeats is not used" in report(tmp_path)) == (expected[0] != names[0])

    @pytest.mark.parametrize(
        ("names", "why"),
        [(("10_cat", "dog"), "but others are not"), (("1_cat", "2_cat"), "two classes would have one label")],
    )
    def test_folder_of_kohya_whose_whole_name_is_the_label_is_reported(self, tmp_path, names, why):
        for name in names:
            (tmp_path / name).mkdir()
            PICTURE.save(tmp_path / name / "x.png")
        assert why in report(tmp_path)
        assert f"{names[0]!r} is named as for kohya's scripts" in report(tmp_path)


def _tokens(folder):
    save_tokens(TOKENS, folder / "tokens.safetensors")


def _features(folder):
    save_file({"features": torch.zeros(1)}, folder / "0123.safetensors", {"format": "mcti-features"})


OUTPUTS = {
    "learned": _tokens,
    "embeddings": lambda folder: export_embedding(TOKENS, 0, folder),
    "unfinished": lambda folder: save_checkpoint(training(), folder / "training.safetensors"),
    "cache": _features,
    "generated": lambda folder: [write_png(PICTURE, folder / f"{i}.png") for i in range(3)],
    "demo": lambda folder: write_json({}, folder / "metrics.json"),
}


class TestOutputs:
    @pytest.mark.parametrize("kind", OUTPUTS)
    def test_folder_that_this_program_wrote_is_no_class(self, photos, kind):
        (photos / "x").mkdir()
        OUTPUTS[kind](photos / "x")
        assert labels(photos) == ["cat", "dog"]
        assert f"1 folder skipped: written by MC-TI ({photos / 'x'})" in report(photos)

    def test_run_leaves_examples_as_they_were(self, photos):
        before = FewShotDataset.from_folder(photos).fingerprint()
        for place in (photos, photos / "learned", photos / "cat"):
            place.mkdir(exist_ok=True)
            _tokens(place)
            export_embedding(TOKENS, 0, place / "embeddings")
            write_png(PICTURE, place / "loss.png")
            write_png(PICTURE, place / "generated" / "cat-00.png")
        data = FewShotDataset.from_folder(photos)
        assert data.classes == ("cat", "dog")
        assert data.fingerprint() == before

    def test_loss_curve_of_an_earlier_version_is_known_by_its_tokens(self, photos):
        """It has no mark."""
        (photos / "old").mkdir()
        _tokens(photos / "old")
        PICTURE.save(photos / "old" / "loss.png")
        assert labels(photos) == ["cat", "dog"]

    def test_own_photos_in_an_output_folder_are_used(self, photos):
        _tokens(photos / "cat")
        PICTURE.save(photos / "cat" / "loss.png")
        assert labels(photos) == ["cat", "dog"]

    def test_generated_images_are_classified_but_not_learned_from(self, photos):
        for i in range(3):
            write_png(PICTURE, photos / "cat" / f"cat-0{i}.png")
        write_png(PICTURE, photos / "cat" / "loss.png")
        assert len(find_images(photos / "cat")) == 2
        assert "4 .png files skipped: written by MC-TI" in report(photos)
        assert len(find_image_paths([photos / "cat"])) == 5
