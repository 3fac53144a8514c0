from argparse import Namespace
from dataclasses import replace
from functools import partial

import pytest
import torch

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.classifiers.hybrid import HybridClassifier
from mcti_core.cli.options import host_of
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.errors import HostError
from mcti_core.hosts.out_of_memory import in_parts_that_fit, is_out_of_memory
from mcti_core.sampling import generate
from mcti_core.training.config import TrainConfig
from mcti_core.training.loop import train

PROMPTS = [f"a photo of {number}" for number in "abcde"]


class Small:
    """A part of a host with room for ``room`` rows at once in ``method``; it fails as MPS does."""

    def __init__(self, part, method, room, message="MPS backend out of memory (MPS allocated: 17 GB)"):
        self.part, self.method, self.room, self.message, self.sizes = part, method, room, message, []

    def __getattr__(self, name):
        found = getattr(self.part, name)
        if name != self.method:
            return found

        def call(first, *others):
            if len(first) > self.room:
                raise RuntimeError(self.message)
            self.sizes.append(len(first))
            return found(first, *others)

        return call


def small_host(host, place, room, **options):
    """The host with too little memory in one part; with the rows that part took."""
    if place == "text":
        small = {name: Small(encoder, "encode", room, **options) for name, encoder in host.text.items()}
        return replace(host, text=small), small["clip_l"].sizes
    place, method = {
        "denoiser": ("denoiser", "denoise"),
        "codec": ("codec", "decode"),
        "encoder": ("codec", "encode"),
        "clip": ("clip", "image_features"),
    }[place]
    small = Small(getattr(host, place), method, room, **options)
    return replace(host, **{place: small}), small.sizes


@pytest.mark.parametrize(("place", "room"), [("text", 4), ("denoiser", 4), ("codec", 2), ("denoiser", 2), ("codec", 1)])
def test_generate_with_little_memory_draws_the_same_in_smaller_parts(tiny_host, place, room):
    host, sizes = small_host(tiny_host, place, room)
    seen = []
    images = generate(host, PROMPTS, num_inference_steps=2, size=32, progress=lambda done, _: seen.append(done))
    assert max(sizes) <= room
    assert seen[-1] == 5
    assert seen == sorted(set(seen))
    assert torch.allclose(images, generate(tiny_host, PROMPTS, num_inference_steps=2, size=32), atol=1e-4)


@pytest.mark.parametrize("place", ["text", "denoiser", "codec"])
def test_generate_without_memory_for_one_image_names_what_to_lower(tiny_host, place):
    host, _ = small_host(tiny_host, place, 0)
    with pytest.raises(HostError, match=r"a single image of 32 pixels .* smaller size"):
        generate(host, PROMPTS, num_inference_steps=2, size=32)


def test_generate_with_another_error_passes_it_on(tiny_host):
    host, _ = small_host(tiny_host, "denoiser", 0, message="mat1 and mat2 cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1"):
        generate(host, PROMPTS, num_inference_steps=2, size=32)


def test_diffusion_classifier_on_mps_takes_smaller_parts(tiny_host, tokens):
    host, sizes = small_host(tiny_host, "denoiser", 2)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scores = DiffusionClassifier(host, tokens, num_trials=4).scores(images)
    assert max(sizes) <= 2
    whole = DiffusionClassifier(tiny_host, tokens, num_trials=4).scores(images)
    assert torch.allclose(scores.logits, whole.logits, atol=1e-3)


@pytest.mark.parametrize("room", [1, 2, 3])
@pytest.mark.parametrize("place", ["encoder", "clip"])
def test_feature_cache_with_little_memory_holds_the_same(tiny_host, dataset, place, room):
    host, sizes = small_host(tiny_host, place, room)
    small, whole = FeatureCache.build(host, dataset, batch_size=5), FeatureCache.build(tiny_host, dataset, batch_size=5)
    assert max(sizes) <= room
    assert torch.allclose(small.latents, whole.latents, atol=1e-5)
    assert torch.allclose(small.features, whole.features, atol=1e-5)


@pytest.mark.parametrize("room", [1, 4, 9])
@pytest.mark.parametrize("place", ["text", "encoder", "clip"])
@pytest.mark.parametrize("kind", [ClipClassifier, HybridClassifier, partial(DiffusionClassifier, num_trials=2)])
def test_classifier_with_little_memory_gives_the_same_scores(tiny_host, tokens, place, room, kind):
    host, sizes = small_host(tiny_host, place, room)
    images = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scores, whole = (kind(one, tokens).scores(images) for one in (host, tiny_host))
    assert max(sizes, default=0) <= room
    assert torch.allclose(scores.logits, whole.logits, atol=1e-3)


@pytest.mark.parametrize(
    ("place", "kind", "sentence"),
    [
        ("text", ClipClassifier, "a single prompt .* text encoder; free memory"),
        ("text", DiffusionClassifier, "a single prompt .* text encoder; free memory"),
        ("clip", ClipClassifier, "a single image .* CLIP image encoder; give smaller images"),
        ("encoder", DiffusionClassifier, "a single image .* VAE; give smaller images"),
    ],
)
def test_classifier_without_memory_for_one_row_names_what_to_lower(tiny_host, tokens, place, kind, sentence):
    host, _ = small_host(tiny_host, place, 0)
    with pytest.raises(HostError, match=sentence):
        kind(host, tokens).scores(torch.rand(2, 3, 32, 32))


@pytest.mark.parametrize("place", ["encoder", "clip"])
def test_feature_cache_without_memory_for_one_image_names_what_to_lower(tiny_host, dataset, place):
    host, _ = small_host(tiny_host, place, 0)
    with pytest.raises(HostError, match=r"a single image of 32 pixels .* smaller image size"):
        FeatureCache.build(host, dataset)


def test_training_with_little_memory_for_text_learns_the_same_in_smaller_parts(tiny_host, cache, tokens):
    config = TrainConfig(steps=3, batch_size=6, lr=1e-2, templates=("a photo of a {}", "a drawing of the {}"))
    host, sizes = small_host(tiny_host, "text", 1)
    small, whole = (train(host, cache, tokens, config), train(tiny_host, cache, tokens, config))
    assert max(sizes) == 1
    assert torch.allclose(small.tokens.vectors["clip_l"], whole.tokens.vectors["clip_l"], atol=1e-4)


@pytest.mark.parametrize(("rows", "room"), [(1, 1), (7, 7), (7, 3), (8, 1), (5, 100)])
def test_in_parts_that_fit_gives_every_row_once_and_in_order(rows, room):
    asked = []

    def compute(part):
        asked.append(part.stop - part.start)
        if asked[-1] > room:
            raise MemoryError
        return list(range(part.start, part.stop))

    results = in_parts_that_fit(compute, rows, 8, "too large")
    assert [number for part in results for number in part] == list(range(rows))
    assert len(asked) <= len(results) + 3  # what fits is found once, and not again for each part


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("Invalid buffer size: 24.00 GiB"), True),
        (RuntimeError("Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"), True),
        (RuntimeError("Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] data. DefaultCPUAllocator: not enough memory"), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("VRAM grow failed: 126484480 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_is_out_of_memory_of_each_device(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize("there", ["cuda", "xpu", "mps"])
def test_device_auto_finds_each_accelerator(monkeypatch, there):
    for name, backend in (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.backends.mps)):
        monkeypatch.setattr(backend, "is_available", lambda name=name: name == there)
    asked = []

    def zeros(*_, device):
        asked.append(device)
        raise RuntimeError("not here")

    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(Exception, match=there):
        host_of(Namespace(device="auto"))
    assert asked == [there]
