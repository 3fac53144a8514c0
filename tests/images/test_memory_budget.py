"""All images that are read at once share one budget."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mcti_core.files.limits import IMAGE_MEMORY, MAX_IMAGE_PIXELS
from mcti_core.images.memory_budget import MemoryBudget, memory_of

MEBIBYTE = 2**20


def test_reservations_never_exceed_the_total():
    budget, lock, most, used = MemoryBudget(10), threading.Lock(), 0, 0

    def take(count):
        nonlocal most, used
        with budget.reserved(count):
            with lock:
                used += count
                most = max(most, used)
            time.sleep(0.002)
            with lock:
                used -= count

    threads = [threading.Thread(target=take, args=(count,)) for count in (3, 7, 10, 1, 4, 4, 4, 10, 0, 9, 2) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert most == 10


def test_large_image_is_not_kept_waiting_by_small_ones_that_come_later():
    budget, order = MemoryBudget(10), []

    def take(count):
        with budget.reserved(count):
            order.append(count)

    with budget.reserved(6):
        threads = []
        for count in (9, 1, 2):
            threads.append(threading.Thread(target=take, args=(count,)))
            threads[-1].start()
            time.sleep(0.05)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order[0] == 9


def test_memory_is_given_back_after_an_error():
    budget = MemoryBudget(5)
    for _ in range(3):
        with pytest.raises(ValueError, match="damaged"), budget.reserved(5):
            raise ValueError("damaged")


def opened(kind, mode, size, **info):
    bands = {"L": "L", "CMYK": "CMYK", "RGBA": "RGBA"}.get(mode, "RGB")
    return SimpleNamespace(
        width=size[0], height=size[1], size=size, mode=mode, info=info, getbands=lambda: tuple(bands)
    )


def test_largest_photos_of_phones_fit_into_the_budget():
    size = (16320, 12240)
    assert size[0] * size[1] <= MAX_IMAGE_PIXELS
    for kind, mode, info in (
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": 1}),
        ("PNG", "RGBA", {}),
        ("TIFF", "RGB", {}),
    ):
        assert memory_of(opened(kind, mode, size, **info), kind, 2) < IMAGE_MEMORY
    assert memory_of(opened("HEIF", "RGB", (8064, 6048)), "HEIF", 1) < IMAGE_MEMORY // 1.5


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_no_more_than_two_pictures_of_a_size_that_is_not_known_are_unpacked_at_once(kind):
    """2 KB that say to be 16 x 16 took 0.3 GiB with 144 million pixels, for each reader."""
    needed = memory_of(opened(kind, "RGB", (16, 16)), kind, 1)
    assert IMAGE_MEMORY // 3 < needed <= IMAGE_MEMORY // 2


PEAK = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, sys.argv[1])
from mcti_core.images.reading import load_square
import mcti_core.images.memory_budget as memory
memory.image_budget.total = int(sys.argv[4])
load_square(sys.argv[2], 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(8) as pool:
    for square in pool.map(lambda _: load_square(sys.argv[3], 64), range(8)):
        assert square.shape == (3, 64, 64)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def peak(folder, image, total):
    """MiB that eight readers of one image add to a process."""
    Image.new("RGB", (8, 8)).save(folder / "small.png")
    given = [str(Path(__file__).parents[2]), str(folder / "small.png"), str(image), str(total)]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *given], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert not done.returncode, done.stderr
    return int(done.stdout) / (1024 if sys.platform != "darwin" else MEBIBYTE)


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no getrusage")
def test_eight_readers_of_large_images_stay_within_the_budget(tmp_path):
    """Each takes about 120 MiB: at once, they would take 900."""
    Image.new("RGB", (3200, 3200), (9, 99, 200)).save(tmp_path / "large.png", compress_level=1)
    assert peak(tmp_path, tmp_path / "large.png", 280 * MEBIBYTE) < 360


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="this system has no getrusage")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_eight_readers_of_169_megapixel_files_stay_within_the_budget(mode, tmp_path):
    Image.new("RGBA", (13000, 13000), (9, 99, 200, 50)).convert(mode).save(tmp_path / "x.png", compress_level=1)
    assert peak(tmp_path, tmp_path / "x.png", IMAGE_MEMORY) < IMAGE_MEMORY / MEBIBYTE
