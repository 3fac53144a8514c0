from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from mcti_core.distributed import DistributedContext
from mcti_core.errors import HostError
from mcti_core.prompts.splicing import encode_prompts, template_prompts
from mcti_core.training.loop import TrainConfig, train
from mcti_core.training.micro_batches import in_micro_batches
from mcti_core.training.objective import reconstruction_loss

CONFIG = TrainConfig(steps=4, batch_size=6, lr=1e-2, templates=("a photo of a {}", "a drawing of the {}"))


class SmallMemory:
    """A denoiser with room for ``room`` images at once, from its ``after``-th call on."""

    def __init__(self, denoiser, room, after=0):
        self.denoiser, self.room, self.after, self.sizes = denoiser, room, after, []
        self.sigmas, self.noised, self.weight = denoiser.sigmas, denoiser.noised, denoiser.weight

    def denoise(self, noised, sigma, text):
        if len(noised) > self.room and len(self.sizes) >= self.after:
            raise torch.cuda.OutOfMemoryError("out of memory")
        self.sizes.append(len(noised))
        return self.denoiser.denoise(noised, sigma, text)


def _close(first, second):
    for name, vectors in first.tokens.vectors.items():
        assert torch.allclose(vectors, second.tokens.vectors[name], atol=1e-5)
    for name, column in first.history.items():
        assert torch.allclose(torch.tensor(column), torch.tensor(second.history[name]), atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_value_and_gradient_do_not_depend_on_the_micro_batch(tiny_host, cache, size):
    encoder, images = tiny_host.text["clip_l"], torch.tensor([0, 2, 5, 3, 8, 1])
    prompts = template_prompts(encoder, ["a photo of a {}"], 1).rows(torch.zeros(6, dtype=torch.long))
    weights = torch.linspace(-1, 2, 6)
    found = []
    for micro_batch_size in (0, size):
        vectors = torch.randn(6, 1, encoder.width, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with tiny_host.session("text", "denoiser", gradients=True):
            text = encode_prompts(tiny_host, {"clip_l": prompts}, {"clip_l": vectors})
            generator = torch.Generator().manual_seed(1)
            loss = reconstruction_loss(tiny_host, cache, images, text, generator, micro_batch_size=micro_batch_size)
            (loss * weights).sum().backward()
        found.append((loss.detach(), vectors.grad))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)
    assert found[0][1].abs().max() > 1e-4


def test_no_more_rows_at_once_than_asked(tiny_host):
    encoder = tiny_host.text["clip_l"]
    prompts = template_prompts(encoder, ["a photo of a {}"], 1).rows(torch.zeros(5, dtype=torch.long))
    text = encode_prompts(tiny_host, {"clip_l": prompts}, {"clip_l": torch.zeros(5, 1, encoder.width)})
    seen = []

    def losses(part, features):
        seen.append(len(features["clip_l"].context))
        return features["clip_l"].context.sum((1, 2)) * 2

    assert torch.allclose(in_micro_batches(losses, text, 2), losses(slice(None), text))
    assert seen == [2, 2, 1, 5]


@pytest.mark.parametrize("micro_batch_size", [1, 4])
def test_training_learns_the_same(tiny_host, cache, tokens, micro_batch_size):
    whole = train(tiny_host, cache, tokens, CONFIG)
    _close(whole, train(tiny_host, cache, tokens, replace(CONFIG, micro_batch_size=micro_batch_size)))


@pytest.mark.parametrize(
    ("room", "after", "sizes"), [(6, 0, {6}), (3, 0, {3}), (2, 0, {1}), (3, 2, {3, 6}), (1, 3, {1, 6})]
)
def test_where_memory_runs_out_the_training_goes_on_with_less(tiny_host, cache, tokens, room, after, sizes):
    small, steps = SmallMemory(tiny_host.denoiser, room, after), []
    host = replace(tiny_host, denoiser=small)
    result = train(host, cache, tokens, CONFIG, on_step=lambda info: steps.append(info.step))
    assert steps == [1, 2, 3, 4]
    assert set(small.sizes) == sizes
    _close(train(tiny_host, cache, tokens, CONFIG), result)


def test_where_one_image_is_too_much_its_gradients_are_checkpointed(tiny_host, cache, tokens):
    on = []

    @contextmanager
    def session(*parts, checkpointing=False, **options):
        on.append(checkpointing)
        with tiny_host.session(*parts, checkpointing=checkpointing, **options):
            yield
        on.pop()

    class Small(SmallMemory):
        def denoise(self, *arguments):
            if not on[-1]:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return super().denoise(*arguments)

    small = Small(tiny_host.denoiser, 1)
    result = train(replace(tiny_host, denoiser=small, session=session), cache, tokens, CONFIG)
    assert set(small.sizes) == {1}
    _close(train(tiny_host, cache, tokens, CONFIG), result)


def test_memory_for_no_image_at_all_is_reported(tiny_host, cache, tokens):
    host = replace(tiny_host, denoiser=SmallMemory(tiny_host.denoiser, 0))
    with pytest.raises(HostError, match="a single image or prompt does not fit"):
        train(host, cache, tokens, CONFIG)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({}, "3 images at once in each process do not fit into memory; choose --micro-batch-size 1"),
        ({"micro_batch_size": 1}, "a single image at once .* choose --gradient-checkpointing"),
        (
            {"micro_batch_size": 1, "gradient_checkpointing": True},
            "a single image at once .* choose a smaller image size",
        ),
    ],
)
def test_one_of_several_processes_says_what_would_help(tiny_host, cache, tokens, settings, advice):
    """Six images are three for each of two."""
    host = replace(tiny_host, denoiser=SmallMemory(tiny_host.denoiser, 0))
    with pytest.raises(HostError, match=advice):
        train(host, cache, tokens, replace(CONFIG, **settings), processes=DistributedContext(0, 2))
