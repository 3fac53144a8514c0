from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from mcti_core.prompts.splicing import template_prompts
from mcti_core.training.early_stopping import EarlyStopping, ValidationLoss

from ..fake_processes import together


@dataclass
class Counting:
    """A denoiser that notes how many images came at once."""

    inner: Any
    sizes: list[int] = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def denoise(self, noised, *rest):
        self.sizes.append(len(noised))
        return self.inner.denoise(noised, *rest)


@pytest.fixture
def prompts(tiny_host):
    return {"clip_l": template_prompts(tiny_host.text["clip_l"], ("a photo of a {}",), 2)}


@pytest.mark.parametrize(("batch_size", "sizes"), [(32, [10]), (4, [4, 4, 2])])
def test_no_more_at_once_than_a_training_step_takes(tiny_host, cache, tokens, prompts, batch_size, sizes):
    host = replace(tiny_host, denoiser=Counting(tiny_host.denoiser))
    found = ValidationLoss(host, cache, torch.arange(3), prompts, num_samples=10, batch_size=batch_size).error(
        tokens.vectors
    )
    whole = ValidationLoss(tiny_host, cache, torch.arange(3), prompts, num_samples=10).error(tokens.vectors)
    assert host.denoiser.sizes == sizes
    assert found == pytest.approx(whole, rel=1e-5)


def test_several_processes_share_it_and_come_to_one_error(tiny_host, cache, tokens, prompts):
    """To the bit, or some would stop and leave the others waiting."""
    alone = ValidationLoss(tiny_host, cache, torch.arange(3), prompts, num_samples=10).error(tokens.vectors)
    hosts = [replace(tiny_host, denoiser=Counting(tiny_host.denoiser)) for _ in range(3)]

    def error(processes):
        probe = ValidationLoss(
            hosts[processes.index], cache, torch.arange(3), prompts, num_samples=10, processes=processes
        )
        return probe.error(tokens.vectors)

    found = together(3, error)
    assert found[0] == pytest.approx(alone, rel=1e-5)
    assert len(set(found)) == 1
    assert [host.denoiser.sizes for host in hosts] == [[3], [3], [4]]


def test_patience_ends_after_so_many_looks_without_gain():
    stopping = EarlyStopping(2)
    assert [stopping.should_stop(error) for error in (3.0, 2.0, 2.5, 1.0, 1.0, 1.5)] == [False] * 5 + [True]
