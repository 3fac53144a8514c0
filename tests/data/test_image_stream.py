import os
import threading
import time

import pytest
import torch
from PIL import Image

from mcti_core.data.example_files import find_images
from mcti_core.data.image_stream import ImagePaths, find_image_paths, read_ahead
from mcti_core.errors import ExamplesError
from mcti_core.images.reading import load_image, load_square, to_square


@pytest.fixture
def folder(tmp_path):
    """Two folders in one another, with files that are no images or hidden."""
    names = "b.png a.JPG 10.webp 9.webp .hidden.png notes.txt png in/c.png in/deeper/a.png .no/x.png"
    for name in names.split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_names_are_those_of_find_images_in_the_same_order(folder):
    assert list(find_image_paths([folder])) == [str(path) for path in find_images(folder)]
    assert [os.path.basename(name) for name in find_image_paths([folder])] == ["10.webp", "9.webp", "a.JPG", "b.png"]


def test_folders_in_folders_come_after_their_files(folder):
    names = find_image_paths([folder, folder / "b.png"], recursive=True)
    inner = [str(folder / "in" / "c.png"), str(folder / "in" / "deeper" / "a.png")]
    assert list(names) == [*map(str, find_images(folder)), *inner, str(folder / "b.png")]
    assert len(names) == 7


def test_the_folder_one_is_in(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert list(find_image_paths(["."])) == [str(path) for path in find_images(".")]


def test_what_is_not_there_is_reported(folder, tmp_path):
    with pytest.raises(ExamplesError, match="nowhere"):
        find_image_paths([folder, tmp_path / "nowhere"])
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(ExamplesError, match="--recursive"):
        find_image_paths([tmp_path / "empty"])
    with pytest.raises(ExamplesError, match=r"no images in [^;]*$"):
        find_image_paths([tmp_path / "empty"], recursive=True)


def test_a_fingerprint_is_of_names_and_order(folder):
    names = find_image_paths([folder])
    assert names.fingerprint() == find_image_paths([folder]).fingerprint()
    one, other = folder / "a.JPG", folder / "b.png"
    assert find_image_paths([one, other]).fingerprint() != find_image_paths([other, one]).fingerprint()
    apart, together = (ImagePaths((("", names),)) for names in (["a", "bc"], ["ab", "c"]))
    assert apart.fingerprint() != together.fingerprint()
    (folder / "new.png").touch()
    assert find_image_paths([folder]).fingerprint() != names.fingerprint()


def test_batches_come_in_order_however_long_reading_takes():
    def read(path):
        time.sleep(0.02 if path in ("0", "5") else 0)
        if path == "3":
            raise ExamplesError("3 is broken")
        return torch.tensor(float(path))

    found = list(read_ahead("0123456", 3, read, num_workers=4))
    assert [[path for path, _ in batch] for batch in found] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert [float(image) for batch in found for path, image in batch if path != "3"] == [0, 1, 2, 4, 5, 6]
    assert str(found[1][0][1]) == "3 is broken"


def test_the_next_batch_is_read_while_one_is_looked_at_and_no_more():
    """With a million images to come, no more than two batches are held."""
    read, wait = [], threading.Event()

    def reading(path):
        read.append(path)
        if path == "b":
            wait.set()
        return torch.zeros(1)

    asked = []

    def names():
        for number in range(1_000_000):
            asked.append(number)
            yield chr(ord("a") + number)

    stream = read_ahead(names(), 1, reading, num_workers=2)
    assert next(stream)[0][0] == "a"
    assert wait.wait(5)  # "b" was read though nobody has asked for it
    assert asked == [0, 1]
    stream.close()
    assert sorted(read) == ["a", "b"]


def test_any_other_error_passes_through_and_ends_the_threads():
    def broken(path):
        raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(read_ahead("ab", 1, broken, num_workers=2))
    assert threading.active_count() == before


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (32, 32)])
def test_a_square_is_the_same_with_less_memory(tmp_path, size):
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "image.png")
    assert torch.equal(load_square(tmp_path / "image.png", 16), to_square(load_image(tmp_path / "image.png"), 16))


@pytest.mark.skipif(os.name != "posix", reason="paths are shorter there")
def test_folders_deeper_than_pythons_stack_are_looked_into(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=folder)
        folder, above = os.open("d", os.O_RDONLY, dir_fd=folder), folder
        os.close(above)
    os.close(os.open("x.png", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    try:
        (path,) = find_image_paths([tmp_path], recursive=True)
        assert path.endswith("/d/d/x.png")
    finally:  # pytest cannot remove what is that deep, nor can shutil before Python 3.14
        inner = path
        os.unlink(inner)
        while (inner := os.path.dirname(inner)) != str(tmp_path):
            os.rmdir(inner)


@pytest.fixture
def photos(tmp_path):
    """Two folders of two images."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for name in ("0.png", "1.png"):
            Image.new("RGB", (8, 6), "red").save(tmp_path / label / name)
    return tmp_path


def test_what_is_not_classified_is_reported(photos):
    for name in ("a.mov", "b.txt"):
        (photos / "cat" / name).touch()
    (photos / "cat" / "more").mkdir()
    names = find_image_paths([photos / "cat"])
    assert len(names) == 2
    assert "1 .mov file skipped: videos" in names.skipped
    assert "1 folder skipped: --recursive includes images in folders" in names.skipped


def test_folders_that_are_links_are_looked_into_once(photos):
    (photos / "all").mkdir()
    for name in ("cat", "dog"):
        (photos / "all" / name).symlink_to(photos / name)
    (photos / "all" / "again").symlink_to(photos / "cat")
    (photos / "cat" / "loop").symlink_to(photos)
    names = find_image_paths([photos / "all"], recursive=True)
    assert len(names) == 4
    assert "4 folders skipped: read already under another name" in names.skipped


def test_folder_without_images_names_what_is_in_it(tmp_path):
    (tmp_path / "a.cr2").touch()
    with pytest.raises(ExamplesError, match=r"no images in .* \(1 \.cr2 file skipped: raw camera files"):
        find_image_paths([tmp_path])
