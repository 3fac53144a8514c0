import numpy as np
import pytest
from PIL import Image

from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.data.sidecars import find_captions, read_caption
from mcti_core.errors import ExamplesError


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            pixels = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    (tmp_path / "a" / "0.txt").write_text("a {} on grass", encoding="utf-8")
    (tmp_path / "b" / "1.caption").write_text("1girl, hat", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (b"a photo of {} on a sofa\n", "a photo of {} on a sofa"),
        (b"\n \r\n  two {} \r\nnot read", "two {}"),
        (b"a sofa, red", "{}, a sofa, red"),
        ("\ufeff{} mit Hüten".encode(), "{} mit Hüten"),
        ("{} mit Hüten".encode("utf-16"), "{} mit Hüten"),
        (b"", ""),
        (b" \n", ""),
    ],
)
def test_caption_is_the_first_line_with_the_token(tmp_path, content, caption):
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    assert read_caption(path) == caption


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{} and {}", "template '{} and {}' must contain {} exactly once"),
        (b"{} (hat:1.3)", "a weight or other syntax"),
        (b"\xff{}", "lone surrogate"),
        (b"x" * 2**17, "larger than 64 KiB"),
        (b"x" * 2001, "at most 2,000 characters"),
        (("x" + "\u0301" * 31).encode(), "marks on one letter"),
    ],
)
def test_caption_that_is_no_template_is_refused_with_its_file(tmp_path, content, problem):
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(ExamplesError) as raised:
        read_caption(path)
    assert problem in str(raised.value)
    assert str(path) in str(raised.value)


def test_captions_are_the_files_named_like_the_images(folder):
    images = sorted(folder.glob("*/*.png"))
    assert find_captions(images) == {images[0]: folder / "a" / "0.txt", images[3]: folder / "b" / "1.caption"}


def test_dataset_without_the_option_has_no_captions_and_counts_the_files(folder):
    dataset = FewShotDataset.from_folder(folder)
    assert dataset.captions == {}
    assert "1 .txt file skipped: not an image" in dataset.skipped


def test_dataset_with_captions_reports_none_of_them_as_skipped(folder):
    (folder / "a" / "notes.txt").write_text("x")
    assert FewShotDataset.from_folder(folder, captions=True).skipped.count("skipped") == 1
    (folder / "a" / "notes.txt").unlink()
    assert FewShotDataset.from_folder(folder, captions=True).skipped == ""


def test_captions_without_any_file_are_an_error(folder):
    for path in (folder / "a" / "0.txt", folder / "b" / "1.caption"):
        path.unlink()
    with pytest.raises(ExamplesError, match=r"no image has a caption; .*0\.txt would be the first one's"):
        FewShotDataset.from_folder(folder, captions=True)


def test_cache_holds_captions_and_changes_with_them(folder, tiny_host):
    first = FeatureCache.build(tiny_host, FewShotDataset.from_folder(folder, captions=True))
    assert first.captions == ("a {} on grass", "", "", "{}, 1girl, hat")
    (folder / "a" / "0.txt").write_text("a {} on snow", encoding="utf-8")
    assert (
        FeatureCache.build(tiny_host, FewShotDataset.from_folder(folder, captions=True)).fingerprint
        != first.fingerprint
    )
    plain = FeatureCache.build(tiny_host, FewShotDataset.from_folder(folder))
    assert plain.captions == ()


def test_image_whose_caption_would_have_too_long_a_name_has_none(tmp_path):
    image = tmp_path / f"{'n' * 251}.png"
    image.touch()
    assert find_captions([image]) == {}
