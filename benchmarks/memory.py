"""Measure or compute the device memory of training, caching and classifying at full size.

Usage: python -m benchmarks.memory [--quick] [--output-json FILE] [--models sd15 sdxl] [--dtypes bf16 fp16] [--device cuda]

With a GPU, memory is measured. Without one it is computed: the unchanged library runs on models of the real layouts whose tensors
have shapes but no data, and the bytes of all live storages are added up at every operation (``memory_tracker.py``). The random weights of
``benchmarks/models.py`` take as much memory as trained ones.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.hosts.base import Host
from mcti_core.hosts.diffusers.loading import quiet_libraries
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.config import TrainConfig
from mcti_core.training.loop import train

from .fake_host import fake_host
from .fake_models import FakeTensors
from .memory_tracker import MemoryTracker, gpu_workspace
from .models import host_of, model_folder, random_examples
from .report import machine, parsed, show, write_json

__all__ = ["Job", "Meter", "Row", "ShapesMeter", "jobs", "measure"]

GB = 1e9
CONTEXT = 0.5 * GB
"""Memory of CUDA itself and its libraries' kernels."""
SLACK = 1.1
"""Factor for gaps of the allocator, and for kernels' own memory that is not counted."""
LIMITS = {
    ("sd15", "train"): 6, ("sd15", "cache"): 6, ("sd15", "classify"): 4,
    ("sdxl", "train"): 12, ("sdxl", "cache"): 12, ("sdxl", "classify"): 12,
}  # fmt: skip
"""Goal in GB."""
CLASSES, SHOTS = 10, 4
GIVEN = 32
"""Number of images that ``mcti classify`` and the node pass to a classifier, which chooses its own batch size."""


@dataclass(frozen=True)
class Job:
    """A job whose memory is measured."""

    kind: str
    """``"train"``, ``"cache"`` or ``"classify"``."""
    what: str
    at_once: int | str
    """Number of rows in the model at once, or ``"default"``."""
    run: Callable[[], object]
    checkpointing: bool | None = None


@dataclass(frozen=True)
class Row:
    """Memory of a job, in bytes."""

    model: str
    dtype: str
    job: Job
    weights: int
    """Bytes of the weights of all models."""
    peak: int
    """Peak memory, including weights."""

    @property
    def card(self) -> float:
        """Bytes that a card should have, including CUDA's own memory and slack."""
        return self.peak * SLACK + CONTEXT

    def as_dict(self) -> dict[str, Any]:
        """The figures in GB of 10**9 bytes."""
        limit = LIMITS.get((self.model, self.job.kind))
        return {
            "model": self.model,
            "dtype": self.dtype,
            "what": self.job.what,
            "at once": self.job.at_once,
            "checkpointing": {None: None, False: "no", True: "yes"}[self.job.checkpointing],
            "weights": round(self.weights / GB, 2),
            "activations": round((self.peak - self.weights) / GB, 2),
            "peak": round(self.peak / GB, 2),
            "card": round(self.card / GB, 1),
            "target": None if limit is None else f"{limit}: {'fits' if self.card <= limit * GB else 'too much'}",
        }


class Meter(Protocol):
    """A host, and a counter of its memory."""

    host: Host
    weights: int

    def peak(self, run: Callable[[], object]) -> int:
        """Peak bytes while ``run`` runs."""


class ShapesMeter:
    """Computed memory of a host without data."""

    def __init__(self, model: str, dtype: str):
        self.tracker = MemoryTracker(gpu_workspace)
        self.host, self.modules = fake_host(model, dtype, FakeTensors(self.tracker))
        every = [module for part in self.modules.values() for module in part]
        self.tracker.hold(weight for module in every for weight in [*module.parameters(), *module.buffers()])
        self.weights = self.tracker.now

    def peak(self, run: Callable[[], object]) -> int:
        gc.collect()
        self.tracker.start_again()
        with self.tracker:
            run()
        return self.tracker.peak


class CudaMeter:
    """Measured memory of random weights on a GPU, from PyTorch's own allocator."""

    def __init__(self, model: str, dtype: str, device: str, folder: Path):
        before = torch.cuda.memory_allocated(device)
        self.device, self.host = device, host_of(model_folder(model, folder, device), device, dtype)
        self.weights = torch.cuda.memory_allocated(device) - before

    def peak(self, run: Callable[[], object]) -> int:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)


def jobs(host: Host, quick: bool = False) -> Iterator[Job]:
    """All jobs of one model."""
    yield from _trainings(host, (1, 8) if quick else (1, 2, 4, 8))
    yield from _cachings(host, (1, 8) if quick else (1, 2, 4, 8))
    yield from _by_clip(host, (8,) if quick else (1, 8))
    yield from _by_diffusion(host, (8, 128) if quick else (1, 4, 8, 32, 128))


def measure(meter: Meter, model: str, dtype: str, todo: Iterator[Job]) -> Iterator[Row]:
    for job in todo:
        yield Row(model, dtype, job, meter.weights, meter.peak(job.run))


def _trainings(host: Host, sizes: Sequence[int]) -> Iterator[Job]:
    cache, tokens = _cache(host), _tokens(host, CLASSES)
    for checkpointing in (False, True):
        for size in sizes:
            # two parts, so that the first one's gradients are in memory while the second is computed
            config = TrainConfig(
                steps=1,
                batch_size=2 * size,
                micro_batch_size=size,
                gradient_checkpointing=checkpointing,
                lr_warmup_steps=0,
            )
            yield Job(
                "train", "train, images", size, lambda config=config: train(host, cache, tokens, config), checkpointing
            )
    yield Job("train", "train, images", "default", lambda: train(host, cache, tokens, TrainConfig(steps=1)), False)


def _cachings(host: Host, sizes: Sequence[int]) -> Iterator[Job]:
    def build(images: int, **options: int) -> object:
        return FeatureCache.build(host, random_examples(2, max(1, images // 2), host.image_size), **options)

    for size in sizes:
        yield Job("cache", "cache, images", size, lambda size=size: build(size, batch_size=size))
    yield Job("cache", "cache, images", "default", lambda: build(16))


def _by_clip(host: Host, sizes: Sequence[int]) -> Iterator[Job]:
    yield Job("classify", "CLIP, texts", "default", lambda: ClipClassifier(host, _tokens(host, 64)))
    classifier = ClipClassifier(host, _tokens(host, 2), templates=("a {}",))
    for size in sizes:
        yield Job("classify", "CLIP, images", size, lambda size=size: classifier.scores(_images(host, size)))
    yield Job("classify", "CLIP, images", "default", lambda: classifier.scores(_images(host, GIVEN)))


def _by_diffusion(host: Host, sizes: Sequence[int]) -> Iterator[Job]:
    def score(images: int, classes: int, **options: int) -> object:
        classifier = DiffusionClassifier(host, _tokens(host, classes), num_trials=1, **options)
        return classifier.scores(_images(host, images))

    for size in sizes:
        # just enough evaluations and images to fill one batch; the autoencoder encodes the images first
        classes = max(2, size)
        yield Job(
            "classify", "diffusion, evaluations", size,
            lambda size=size, classes=classes: score(1, classes, batch_size=size),
        )  # fmt: skip
    yield Job("classify", "diffusion, evaluations", "default", lambda: score(GIVEN, CLASSES))


def _cache(host: Host) -> FeatureCache:
    classes, side = (
        tuple(f"thing {index}" for index in range(CLASSES)),
        host.image_size // host.require_codec().downscale,
    )
    labels = torch.arange(CLASSES).repeat_interleave(SHOTS)
    latents = torch.zeros(len(labels), 2, 4, side, side)
    width = host.require_clip().project_text(torch.zeros(1, _width(host), device=host.device)).shape[1]
    return FeatureCache(classes, labels, latents, torch.zeros(len(labels), 2, width), "zeros")


def _tokens(host: Host, classes: int) -> TokenSet:
    vectors = {name: torch.zeros(classes, 1, encoder.width) for name, encoder in host.text.items()}
    return TokenSet(tuple(f"thing {index}" for index in range(classes)), vectors)


def _images(host: Host, count: int) -> torch.Tensor:
    """Images without data, since images on the CPU are not counted."""
    return torch.zeros(1, 1, 1, 1).expand(count, 3, host.image_size, host.image_size)


def _width(host: Host) -> int:
    return host.text[host.require_clip().encoder].width


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="SD 1.5 in bf16, and only the ends of each range")
    parser.add_argument("--models", nargs="+", default=["sd15", "sdxl"])
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else None)
    given = parsed(parser, arguments)
    if given.quick:
        given.models, given.dtypes = given.models[:1], given.dtypes[:1]
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    given = _options(arguments)
    quiet_libraries()
    how = "computed from shapes, not measured" if given.device is None else "measured on the GPU"
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for model in given.models:
            for dtype in given.dtypes:
                meter: Meter = (
                    ShapesMeter(model, dtype)
                    if given.device is None
                    else CudaMeter(model, dtype, given.device, Path(folder))
                )
                found = [row.as_dict() for row in measure(meter, model, dtype, jobs(meter.host, given.quick))]
                show(f"{model}, {dtype}: GB, {how}; 'card' is {SLACK} x peak + {CONTEXT / GB} GB", found)
                rows += found
    write_json(given.output_json, {"machine": machine(given.device or "cpu"), "how": how, "rows": rows})


if __name__ == "__main__":
    main()
