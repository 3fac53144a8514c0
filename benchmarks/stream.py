"""Measure classifying a large folder: images per second, the model's waiting time, and memory; and a million names.

Usage: python -m benchmarks.stream [--output-json FILE] [--images N] [--names N] [--batch-size N] [--num-workers N]

The folder contains hard links to a few images: ``--images`` glyphs of 64 x 64 pixels in PNG, which the pocket checkpoint
classifies into an answer file, and photographs of 2048 x 1536 in JPEG, which are only read. ``--names`` files that are never
opened measure the cost of a folder of that size.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.cli.classify import classified, record_of
from mcti_core.cli.results_file import ResultsFile, append_records
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.image_stream import default_num_workers, find_image_paths, read_ahead
from mcti_core.images.reading import load_square
from mcti_core.pocket import load_pocket
from mcti_core.pocket.digits import digit_masks, draw_digits, write_class_folders
from mcti_core.training.initial import new_tokens

from .report import machine, parsed, show, write_json
from .timing import resident

__all__ = ["names_row", "photos_row", "stream_row"]

_T = TypeVar("_T")
_LINKS = 50_000
"""Maximum number of hard links to one file; file systems allow a few more."""
MB = 1e6


class Waiting:
    """Time that a consumer waits for an iterator."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, items: Iterable[_T]) -> Iterator[_T]:
        taken = iter(items)
        while True:
            started = time.perf_counter()
            item = next(taken, None)
            self.seconds += time.perf_counter() - started
            if item is None:
                return
            yield item


def memory(field: str = "VmRSS") -> float:
    """``resident`` in MB."""
    return resident(field) / MB


def linked(folder: Path, originals: list[Path], count: int) -> Path:
    """A new folder with this number of hard links."""
    folder.mkdir()
    for number in range(count):
        if number and number % _LINKS == 0:
            originals = [Path(shutil.copy(file, file.with_name(f"{number}-{file.name}"))) for file in originals]
        original = originals[number % len(originals)]
        os.link(original, folder / f"{number:07d}{original.suffix}")
    return folder


def stream_row(folder: Path, glyphs: list[Path], images: int, batch_size: int, num_workers: int) -> dict[str, Any]:
    """Classify with the pocket checkpoint into a file, as ``mcti classify --output`` does."""
    host = load_pocket()
    classifier = ClipClassifier(host, new_tokens(host, [str(number) for number in range(10)]))
    names = find_image_paths([linked(folder / "glyphs", glyphs, images)])
    answers, waiting, early = ResultsFile(folder / "answers.jsonl", {}), Waiting(), 0.0
    answers.begin(resume=False)
    started, busy = time.perf_counter(), time.process_time()
    with append_records(answers.path) as append:
        read = read_ahead(names, batch_size, partial(load_square, size=host.image_size), num_workers)
        for number, answered in enumerate(classified(classifier, waiting.of(read), 1)):
            append([record_of(path, answer) for path, answer in answered])
            early = early or (memory() if number * batch_size >= images // 10 else 0.0)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    grown, found = memory() - early, time.perf_counter()
    assert len(answers.answered()[0]) == images
    return {
        "images": images, "batch_size": batch_size, "num_workers": num_workers, "images/s": images / seconds,
        "CPU ms each": 1000 * busy / images, "model waited": waiting.seconds / seconds, "most memory, MB": memory("VmHWM"), "grown after a tenth, MB": grown,
        "answers, bytes each": answers.path.stat().st_size / images, "reading them to resume, s": time.perf_counter() - found,
    }  # fmt: skip


def photos_row(folder: Path, photos: list[Path], images: int, num_workers: int, size: int) -> dict[str, Any]:
    """Only read the images, and scale them to SD 1.5's size."""
    names = find_image_paths([linked(folder / f"photos-{num_workers}", photos, images)])
    started, busy = time.perf_counter(), time.process_time()
    for _ in read_ahead(names, 32, partial(load_square, size=size), num_workers):
        pass
    return {
        "photographs": images, "num_workers": num_workers, "images/s": images / (time.perf_counter() - started),
        "CPU ms each": 1000 * (time.process_time() - busy) / images, "most memory, MB": memory("VmHWM"),
    }  # fmt: skip


def names_row(folder: Path, originals: list[Path], count: int) -> dict[str, Any]:
    """List this number of files, and hash their names once as ``mcti classify`` does for resuming."""
    place = linked(folder / "names", originals, count)
    Path("/proc/self/clear_refs").write_text("5")  # peak memory is counted from here on
    before, started = memory(), time.perf_counter()
    names = find_image_paths([place])
    listed, most = time.perf_counter() - started, memory("VmHWM") - before
    held, started = memory() - before, time.perf_counter()
    names.fingerprint()
    return {
        "names": len(names), "to list, s": listed, "held, MB": held, "at most, MB": most,
        "to go through, s": time.perf_counter() - started,
    }  # fmt: skip


def _originals(folder: Path) -> tuple[list[Path], list[Path]]:
    """(glyphs, photographs)."""
    masks, labels = digit_masks()
    chosen = torch.cat([(labels == digit).nonzero()[:5, 0] for digit in range(10)])
    digits = FewShotDataset(tuple(map(str, range(10))), tuple(draw_digits(masks[chosen])), labels[chosen])
    write_class_folders(digits, folder / "digits")
    noise = torch.rand(48, 64, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    photo = folder / "photo.jpg"
    Image.fromarray(noise).resize((2048, 1536), Image.Resampling.BICUBIC).save(photo, quality=92)
    return sorted((folder / "digits").glob("*/*.png")), [photo]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Classify a large folder.")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--names", type=int, default=1_000_000, help="0 to leave it out")
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-workers", type=int, default=default_num_workers())
    arguments = parsed(parser, given)
    found: dict[str, Any] = {"machine": machine("cpu")}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        glyphs, photos = _originals(folder)
        if arguments.names:  # before anything large is in memory
            found["names"] = [names_row(folder, glyphs, arguments.names)]
            show("Names alone", found["names"])
        found["stream"] = [stream_row(folder, glyphs, arguments.images, arguments.batch_size, arguments.num_workers)]
        show("Glyphs, classified by the pocket checkpoint into a file", found["stream"])
        found["photos"] = [
            photos_row(folder, photos, arguments.photos, n, 512) for n in sorted({1, arguments.num_workers})
        ]
        show("Photographs of 2048 x 1536, only read", found["photos"])
    write_json(arguments.output_json, found)


if __name__ == "__main__":
    main()
