"""Effects of captions, masks and buckets on a training, and no effects without them."""

from dataclasses import replace

import pytest
import torch

from mcti_core.hosts.diffusers.host import load_host
from mcti_core.losses import noise_error
from mcti_core.prompts.splicing import encode_prompts, template_prompts
from mcti_core.tokens.ops import select
from mcti_core.training.caption_prompts import CaptionPrompts
from mcti_core.training.early_stopping import ValidationLoss
from mcti_core.training.extend import add_classes
from mcti_core.training.loop import TrainConfig, train
from mcti_core.training.objective import reconstruction_loss

from ..fake_processes import together

TEMPLATES = ("a photo of a {}", "a drawing of the {}")
CONFIG = TrainConfig(steps=3, batch_size=4, lr=1e-2, lr_warmup_steps=0, templates=TEMPLATES, eval_steps=1)


def same(first, second):
    return all(torch.equal(v, second.vectors[name]) for name, v in first.vectors.items())


@pytest.fixture
def sizes():
    """Of the nine examples of ``cache``, three sizes."""
    return torch.tensor([[8, 8], [4, 8], [8, 4]] * 3)


@pytest.fixture
def text(tiny_host, tokens):
    prompts = {"clip_l": template_prompts(tiny_host.text["clip_l"], TEMPLATES[:1], 2).rows(torch.zeros(3).long())}
    with torch.no_grad():
        return encode_prompts(tiny_host, prompts, tokens.vectors)


def losses(host, cache, text, **options):
    """The nine examples' losses, with fixed draws."""
    rows = {name: features.rows(cache.labels) for name, features in text.items()}
    generator = torch.Generator().manual_seed(5)
    return reconstruction_loss(host, cache, torch.arange(9), rows, generator, **options)


def test_masked_error_is_the_weighted_mean_of_the_squares():
    generator = torch.Generator().manual_seed(0)
    latents, estimate = torch.randn(2, 3, 4, 5, 6, generator=generator)
    sigma, mask = torch.rand(3, generator=generator) + 0.1, torch.rand(3, 5, 6, generator=generator)
    squares = ((latents - estimate) / sigma.view(3, 1, 1, 1)) ** 2
    expected = [(squares[i] * mask[i]).sum() / (4 * mask[i].sum()) for i in range(3)]
    assert torch.allclose(noise_error(latents, estimate, sigma, mask), torch.stack(expected))
    assert torch.allclose(
        noise_error(latents, estimate, sigma, torch.ones(3, 5, 6)), noise_error(latents, estimate, sigma)
    )


def test_masked_part_has_no_gradient():
    latents, estimate = torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 4, 4, requires_grad=True)
    mask = torch.zeros(1, 4, 4)
    mask[:, 1:3, 1:3] = 1
    noise_error(latents, estimate, torch.ones(1), mask).backward()
    assert torch.equal(estimate.grad.ne(0), mask.bool()[:, None].expand(1, 4, 4, 4))


def test_sizes_and_masks_that_leave_nothing_out_give_the_same_tokens(tiny_host, cache, tokens):
    plain = train(tiny_host, cache, tokens, CONFIG)
    full = train(tiny_host, replace(cache, sizes=torch.full((9, 2), 8)), tokens, CONFIG)
    assert same(plain.tokens, full.tokens)
    assert full.tokens.training["buckets"] is True
    masked = train(tiny_host, replace(cache, masks=torch.ones(9, 2, 8, 8)), tokens, CONFIG)
    assert masked.history["reconstruction"] == pytest.approx(plain.history["reconstruction"], rel=1e-4)


def test_loss_of_an_image_in_a_bucket_is_that_of_its_part_alone(tiny_host, cache, text, sizes):
    masks = torch.rand(9, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    bucketed = replace(cache, sizes=sizes, masks=masks)
    with torch.no_grad():
        found = losses(tiny_host, bucketed, text)
        for row, (height, width) in enumerate(sizes.tolist()):
            generator = torch.Generator().manual_seed(5)
            view = torch.randint(0, 2, (9,), generator=generator)[row]
            step = torch.randint(0, len(tiny_host.denoiser.sigmas), (9,), generator=generator)[row]
            noise = torch.randn(9, 4, 8, 8, generator=generator)[row : row + 1, :, :height, :width]
            clean, sigma = cache.latents[row, view][None, :, :height, :width], tiny_host.denoiser.sigmas[step][None]
            own = {name: features.rows(cache.labels[row : row + 1]) for name, features in text.items()}
            estimate = tiny_host.denoiser.denoise(tiny_host.denoiser.noised(clean, noise, sigma), sigma, own)
            weights = masks[row, view][None, :height, :width]
            assert torch.allclose(found[row], noise_error(clean, estimate, sigma, weights)[0], atol=1e-4)


def test_micro_batches_do_not_change_losses_in_buckets(tiny_host, cache, text, sizes):
    bucketed = replace(cache, sizes=sizes)
    with torch.no_grad():
        whole = losses(tiny_host, bucketed, text)
        assert torch.allclose(losses(tiny_host, bucketed, text, micro_batch_size=2), whole, atol=1e-5)
        parts = [
            reconstruction_loss(
                tiny_host, bucketed, torch.arange(9), {n: f.rows(cache.labels[share]) for n, f in text.items()},
                torch.Generator().manual_seed(5), share=share,
            )
            for share in (slice(0, 4), slice(4, 9))
        ]  # fmt: skip
        assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


def test_probe_counts_only_the_part_in_the_bucket(tiny_host, cache, tokens, sizes):
    prompts = {"clip_l": template_prompts(tiny_host.text["clip_l"], TEMPLATES, 2)}
    beyond = cache.latents.clone()
    for row, (height, width) in enumerate(sizes.tolist()):
        beyond[row, :, :, height:] = 1e3
        beyond[row, :, :, :, width:] = 1e3
    first, other = (
        ValidationLoss(tiny_host, replace(cache, latents=latents, sizes=sizes), torch.arange(3), prompts, batch_size=3)
        for latents in (cache.latents, beyond)
    )
    assert first.error(tokens.vectors) == other.error(tokens.vectors)


def test_denoiser_reads_the_caption_or_a_template_of_the_class(tiny_host, tokens):
    captions = ("a {} on grass", "", "two {} at home", "")
    prompts = CaptionPrompts(tiny_host, captions, TEMPLATES, 2)
    images, places = torch.tensor([2, 1, 0, 3]), torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        found = prompts.encode(images, slice(1, 4), places, tokens.vectors, torch.Generator().manual_seed(3), 0)
        drawn = torch.randint(0, 2, (4,), generator=torch.Generator().manual_seed(3)).tolist()
        texts = [TEMPLATES[drawn[1]], captions[0], TEMPLATES[drawn[3]]]
        rows = {"clip_l": template_prompts(tiny_host.text["clip_l"], texts, 2)}
        expected = encode_prompts(tiny_host, rows, {"clip_l": tokens.vectors["clip_l"][places[1:]]})["clip_l"]
    assert torch.allclose(found["clip_l"].context, expected.context, atol=1e-5)


def test_training_with_captions_is_steady_and_differs_by_them(tiny_host, cache, tokens):
    first, other = (tuple(f"a {{}} {word}" for _ in range(9)) for word in ("on grass", "at home"))
    learned = train(tiny_host, replace(cache, captions=first), tokens, CONFIG)
    again = train(tiny_host, replace(cache, captions=first), tokens, CONFIG)
    assert same(learned.tokens, again.tokens)
    assert not same(learned.tokens, train(tiny_host, replace(cache, captions=other), tokens, CONFIG).tokens)
    assert learned.tokens.training["captions"] is True
    parts = replace(CONFIG, micro_batch_size=2, gradient_checkpointing=True)
    in_parts = train(tiny_host, replace(cache, captions=first), tokens, parts)
    assert torch.allclose(in_parts.tokens.vectors["clip_l"], learned.tokens.vectors["clip_l"], atol=1e-4)


def test_plain_textual_inversion_takes_captions_too(tiny_host, cache, tokens):
    bare = replace(tiny_host, clip=None)
    config = replace(CONFIG, gamma=0.0, gradient_checkpointing=True, micro_batch_size=1)
    captions = ("a {} on grass", *[""] * 8)
    assert len(train(bare, replace(cache, captions=captions), tokens, config).history["loss"]) == 3


@pytest.fixture
def beside(cache, sizes):
    """``cache`` with captions for some, masks and sizes."""
    masks = torch.rand(9, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return replace(cache, captions=("a {} on grass", "", "{}, at home") * 3, masks=masks, sizes=sizes)


def test_two_processes_learn_from_them_what_one_does(tiny_model, tiny_host, beside, tokens):
    alone = train(tiny_host, beside, tokens, CONFIG)
    hosts = [load_host(tiny_model, tiny_model / "clip") for _ in range(2)]  # threads may not share one
    first, second = together(
        2, lambda processes: train(hosts[processes.index], beside, tokens, CONFIG, processes=processes)
    )
    assert same(first.tokens, second.tokens)
    assert repr(first.history) == repr(second.history)
    assert first.history["gamma"] == pytest.approx(alone.history["gamma"], rel=1e-3)
    assert torch.allclose(first.tokens.vectors["clip_l"], alone.tokens.vectors["clip_l"], atol=1e-4)


def test_training_resumed_with_them_ends_at_the_same_tokens(tiny_host, beside, tokens):
    states = []
    whole = train(tiny_host, beside, tokens, CONFIG, on_step=lambda info: states.append(info.state()))
    assert same(whole.tokens, train(tiny_host, beside, tokens, CONFIG, resume=states[0]).tokens)


def test_added_class_is_trained_with_its_captions_and_masks(tiny_host, cache, beside, tokens):
    before = select(tokens, ["a", "b"])
    plain, added = (add_classes(tiny_host, each, before, CONFIG).tokens for each in (cache, beside))
    assert torch.equal(added.vectors["clip_l"][:2], before.vectors["clip_l"])
    assert not torch.equal(added.vectors["clip_l"][2], plain.vectors["clip_l"][2])
