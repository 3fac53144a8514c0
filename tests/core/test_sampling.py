from dataclasses import replace

import pytest
import torch

from mcti_core.errors import ConfigError, HostError, TokenError
from mcti_core.prompts.splicing import check_templates
from mcti_core.sampling import generate
from mcti_core.tokens.token_set import TokenSet


class Perfect:
    """A denoiser that knows the one clean latent there is."""

    def __init__(self, denoiser, clean):
        self.sigmas, self.noised, self.clean, self.asked = denoiser.sigmas, denoiser.noised, clean, []

    def denoise(self, noised, sigma, text):
        self.asked.append(sigma.tolist())
        return self.clean.expand(noised.shape)


class Gaussian(Perfect):
    """The exact denoiser of latents that are normal with deviation 1 / 2 around ``clean``."""

    def denoise(self, noised, sigma, text):
        share = 0.25 / (0.25 + sigma.view(-1, 1, 1, 1).square())
        return self.clean + share * (noised - self.clean)


@pytest.fixture
def clean():
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(8))


def draw(host, tokens, prompts=("a photo of {a}", "a photo of {b}"), **options):
    return generate(host, list(prompts), tokens, **{"num_inference_steps": 4, **options})


def test_images_are_ordinary_tensors_in_range(tiny_host, tokens):
    images = draw(tiny_host, tokens)
    assert (images.shape, images.dtype, images.device.type) == ((2, 3, 32, 32), torch.float32, "cpu")
    assert images.min() >= 0
    assert images.max() <= 1
    assert not images.is_inference()  # so that one can go on with them


def test_a_seed_gives_the_same_images(tiny_host, tokens):
    assert torch.equal(draw(tiny_host, tokens), draw(tiny_host, tokens))
    assert not torch.allclose(draw(tiny_host, tokens), draw(tiny_host, tokens, seed=1), atol=1e-3)


@pytest.mark.parametrize("size", [None, 36])  # 36: a latent of 9 x 9, an odd count of numbers
@pytest.mark.parametrize("batch", [1, 2])
def test_batch_size_does_not_change_images(tiny_host, tokens, batch, size):
    prompts = ["a photo of {a}", "a photo of {b}", "a photo of {c}"]
    together = draw(tiny_host, tokens, prompts, size=size)
    apart = draw(tiny_host, tokens, prompts, size=size, batch_size=batch)
    assert torch.allclose(apart, together, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_images_do_not_depend_on_how_many_there_are(tiny_host, tokens):
    one, three = (draw(tiny_host, tokens, ["a photo of {a}"] * count, size=36) for count in (1, 3))
    assert torch.allclose(one[0], three[0], atol=1e-5)


def test_guidance_1_ignores_the_negative_prompt(tiny_host, tokens):
    plain, other = (
        draw(tiny_host, tokens, guidance_scale=1.0, negative_prompt=text) for text in ("", "a bowl of dogs")
    )
    assert torch.allclose(plain, other, atol=1e-4)
    plain, other = (
        draw(tiny_host, tokens, guidance_scale=30.0, negative_prompt=text) for text in ("", "a bowl of dogs")
    )
    assert (plain - other).abs().max() > 1e-3


def test_a_perfect_denoiser_lands_on_its_latent(tiny_host, tokens, clean):
    for steps in (1, 7):
        images = draw(
            replace(tiny_host, denoiser=Perfect(tiny_host.denoiser, clean)), tokens, num_inference_steps=steps
        )
        assert torch.allclose(images, tiny_host.codec.decode(clean).expand(images.shape), atol=1e-4)


def test_noise_levels_fall_from_the_highest(tiny_host, tokens, clean):
    perfect = Perfect(tiny_host.denoiser, clean)
    draw(replace(tiny_host, denoiser=perfect), tokens, num_inference_steps=6)
    levels = [sigma[0] for sigma in perfect.asked]
    assert all(len(set(sigma)) == 1 and len(sigma) == 4 for sigma in perfect.asked)
    assert levels[0] == float(tiny_host.denoiser.sigmas.max())
    assert levels == sorted(set(levels), reverse=True)
    assert len(levels) == 6


def test_known_distribution_is_sampled(tiny_host, tokens, clean):
    """Under the exact denoiser of a normal distribution the ODE only scales the noise, to the distribution's deviation."""

    class Raw:
        downscale, encode = tiny_host.codec.downscale, staticmethod(tiny_host.codec.encode)
        decode, channels = staticmethod(lambda latents: latents), tiny_host.codec.channels

    host = replace(tiny_host, denoiser=Gaussian(tiny_host.denoiser, clean), codec=Raw())
    latents = draw(host, tokens, ["{a}"] * 20, num_inference_steps=500, guidance_scale=1.0)
    assert (latents - clean).std() == pytest.approx(0.5, rel=0.1)
    assert (latents - clean).mean() == pytest.approx(0, abs=0.05)


def test_a_token_of_a_words_vector_draws_the_word(tiny_host):
    encoder = tiny_host.text["clip_l"]
    (dog,) = encoder.tokenize("dog")
    vectors = encoder.embed(torch.tensor([0, dog])).view(2, 1, -1)
    tokens = TokenSet(("x", "pet"), {"clip_l": vectors})
    learned, word = draw(tiny_host, tokens, ["a photo of {pet}"]), draw(tiny_host, None, ["a photo of dog"])
    assert torch.allclose(learned, word, atol=1e-5)


def test_an_unknown_name_is_refused(tiny_host, tokens):
    with pytest.raises(TokenError, match=r"'zebra'.*there are: a, b, c"):
        draw(tiny_host, tokens, ["a photo of {zebra}"])
    with pytest.raises(TokenError, match="'a'"):
        draw(tiny_host, None, ["a photo of {a}"])


@pytest.mark.parametrize(
    ("prompts", "options", "sentence"),
    [
        ("a cat", {}, r"write \['a cat'\]"), ([], {}, "at least one prompt"), (["{a}"], {"num_inference_steps": 0}, "at least one prompt, step"), (["{a}"], {"batch_size": 0}, "image at once"),
        (["{a}"], {"guidance_scale": float("nan")}, "guidance_scale must be a finite"), (["{a}"], {"guidance_scale": float("inf")}, "guidance_scale must be"),
        (["{a}"], {"size": 0}, "image size 0"), (["{a}"], {"size": -32}, "image size -32"), (["{a}"], {"size": 33}, "multiple of 4"),
    ],
)  # fmt: skip
def test_generate_of_nothing_or_out_of_range_is_refused(tiny_host, tokens, prompts, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        generate(tiny_host, prompts, tokens, **options)


def test_parts_of_the_model_are_needed(tiny_host, tokens):
    with pytest.raises(HostError, match="no VAE"):
        draw(replace(tiny_host, codec=None), tokens)
    with pytest.raises(HostError, match="no diffusion model"):
        draw(replace(tiny_host, denoiser=None), tokens)


def test_progress_counts_images(tiny_host, tokens):
    seen = []
    draw(
        tiny_host,
        tokens,
        ["{a}"] * 5,
        batch_size=2,
        num_inference_steps=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_on_image_gets_each_image_in_order_as_soon_as_it_is_done(tiny_host, tokens, batch):
    prompts = ["a {a}", "a {b}", "a {c}"]
    seen, done = [], []
    none = draw(
        tiny_host, tokens, prompts, batch_size=batch,
        on_image=lambda number, image: seen.append((number, image)), progress=lambda n, _: done.append((n, len(seen))),
    )  # fmt: skip
    assert none.shape == (0, 3, 32, 32)
    assert [number for number, _ in seen] == [0, 1, 2]
    assert done == [(n, n) for n in {1: (1, 2, 3), 2: (2, 3), 5: (3,)}[batch]]
    assert torch.equal(torch.stack([image for _, image in seen]), draw(tiny_host, tokens, prompts, batch_size=batch))


def test_images_that_are_not_numbers_are_an_error(tiny_host, tokens, clean):
    host = replace(tiny_host, denoiser=Perfect(tiny_host.denoiser, clean * float("nan")))
    seen = []
    with pytest.raises(HostError, match="not numbers for image 1"):
        draw(host, tokens, on_image=lambda number, image: seen.append(number))
    assert seen == []


def test_generate_of_class_indices_draws_the_classes_in_the_first_template(tiny_host, tokens):
    by_name = draw(tiny_host, replace(tokens, templates=("x {}",)), ["a photo of {c}", "a photo of {a}"])
    by_index = draw(tiny_host, replace(tokens, templates=("a photo of {}", "x {}")), [2, 0])
    assert torch.equal(by_index, by_name)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_generate_of_an_index_of_no_class_is_refused(tiny_host, tokens, wrong):
    """-1 drew an image without any token."""
    with pytest.raises(TokenError, match=f"no class {wrong}; the tokens have 3"):
        generate(tiny_host, [0, wrong], tokens)
    with pytest.raises(TokenError, match="no class 0"):
        generate(tiny_host, [0])


@pytest.mark.parametrize(
    "template", ["a [{}]", "a {} AND b", "a __x__ {}", "a {}++", "{}:1.2", "{} {cat}", "a {} (b", "a {} :)"]
)
def test_generate_of_class_indices_takes_every_template_that_training_takes(tiny_host, tokens, template):
    check_templates([template])
    assert draw(tiny_host, replace(tokens, templates=(template,)), [1]).isfinite().all()
