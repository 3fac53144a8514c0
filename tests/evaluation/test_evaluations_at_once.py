"""Batch size of the diffusion classifier's evaluations, also if memory runs out or numbers are not finite."""

from dataclasses import replace

import pytest
import torch

from mcti_core.classifiers import diffusion
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.errors import HostError


class Small:
    """A denoiser with memory for so many at once."""

    def __init__(self, denoiser, room):
        self.denoiser, self.room, self.sizes = denoiser, room, []
        self.sigmas, self.noised = denoiser.sigmas, denoiser.noised

    def denoise(self, noised, *rest):
        if len(noised) > self.room:
            raise torch.cuda.OutOfMemoryError("out of memory")
        self.sizes.append(len(noised))
        return self.denoiser.denoise(noised, *rest)


@pytest.mark.parametrize(("room", "sizes"), [(64, {36}), (35, {18}), (5, {4}), (1, {1})])
def test_where_memory_runs_out_fewer_are_made_at_once(tiny_host, tokens, cache, room, sizes):
    """Three images, three classes and four pairs are 36 evaluations."""
    options = {"num_trials": 4, "alpha": 0, "batch_size": 64}
    small = Small(tiny_host.denoiser, room)
    classifier = DiffusionClassifier(replace(tiny_host, denoiser=small), tokens, **options)
    found = classifier.score_latents(cache.latents[:3, 0])
    plain = DiffusionClassifier(tiny_host, tokens, **options).score_latents(cache.latents[:3, 0])
    assert set(small.sizes) == sizes
    assert torch.allclose(found.logits, plain.logits, atol=1e-4)


def test_what_did_not_fit_is_not_tried_again(tiny_host, tokens, cache):
    small = Small(tiny_host.denoiser, 10)
    classifier = DiffusionClassifier(replace(tiny_host, denoiser=small), tokens, num_trials=4, alpha=0, batch_size=64)
    classifier.score_latents(cache.latents[:3, 0])
    small.room, small.sizes = 100, []
    classifier.score_latents(cache.latents[:3, 0])
    assert max(small.sizes) == 9


def test_memory_for_not_even_one_is_reported(tiny_host, tokens, cache):
    classifier = DiffusionClassifier(replace(tiny_host, denoiser=Small(tiny_host.denoiser, 0)), tokens, num_trials=4)
    with pytest.raises(HostError, match="a single evaluation of the diffusion model does not fit into memory"):
        classifier.score_latents(cache.latents[:3, 0])


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_reported_and_not_answered(tiny_host, tokens, cache, wrong, monkeypatch):
    monkeypatch.setattr(tiny_host.denoiser, "denoise", lambda noised, *rest: torch.full_like(noised, wrong))
    with pytest.raises(HostError, match="errors are not finite; use a wider number format"):
        DiffusionClassifier(tiny_host, tokens, num_trials=4).score_latents(cache.latents[:3, 0])


@pytest.mark.parametrize(  # a full card: what fits into 4 GB with SD 1.5
    ("free", "side", "expected"),
    [(0, 64, 4), (0, 128, 1), (10e9, 64, 50), (10e9, 128, 12), (80e9, 64, 128), (80e9, 8, 128)],
)
def test_as_many_as_there_is_room_for(monkeypatch, free, side, expected):
    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(80e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    assert diffusion.evaluations_at_once(side * side, device) == expected


def test_on_the_processor_memory_is_not_asked():
    assert diffusion.evaluations_at_once(64, torch.device("cpu")) == 128
    assert diffusion.evaluations_at_once(64 * 64, torch.device("cpu")) == 4
