import pytest
import torch

from mcti_core.losses import noise_error
from mcti_core.noise_levels import random_steps, spread_sigmas, stratified_sigmas


@pytest.fixture
def drawn():
    """Clean latents, noise, a model's guess of what it predicts, and noise levels."""
    generator = torch.Generator().manual_seed(0)
    clean, noise, guess = torch.randn(3, 5, 4, 6, 6, generator=generator)
    return clean, noise, guess, torch.rand(5, generator=generator) * 0.9 + 0.05


def _mean(squares):
    return squares.square().mean(dim=(1, 2, 3))


def test_epsilon_error_of_variance_exploding_noise(drawn):
    clean, noise, guess, sigma = drawn
    s = sigma.view(-1, 1, 1, 1)
    estimate = (clean + s * noise) - s * guess
    assert torch.allclose(noise_error(clean, estimate, sigma), _mean(guess - noise), rtol=1e-4)


def test_velocity_error_of_a_rectified_flow(drawn):
    clean, noise, guess, sigma = drawn
    s = sigma.view(-1, 1, 1, 1)
    noised = (1 - s) * clean + s * noise
    estimate = noised - s * guess  # guess is of the velocity, noise - clean
    assert torch.allclose(noise_error(clean, estimate, sigma), _mean(guess - (noise - clean)), rtol=1e-4)


def test_one_value_a_sample_in_float32(drawn):
    clean, _, guess, sigma = drawn
    error = noise_error(clean.half(), guess.half(), sigma)
    assert (error.shape, error.dtype) == ((5,), torch.float32)
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.equal(noise_error(clean[order], guess[order], sigma[order]), noise_error(clean, guess, sigma)[order])
    assert noise_error(clean, clean, sigma).tolist() == [0.0] * 5


def test_host_noise_error_is_the_schedulers(tiny_model, tiny_host):
    """The host's denoiser against diffusers' own UNet call and scheduler, for every prediction type it knows."""
    from diffusers import DDPMScheduler

    from mcti_core.hosts.diffusers.host import UNetDenoiser
    from mcti_core.hosts.features import TextFeatures

    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, 4, 4, 8, 8, generator=generator)
    context, steps = torch.randn(4, 77, 32, generator=generator), torch.tensor([0, 10, 500, 999])
    unet = tiny_host.denoiser.unet
    for kind in ("epsilon", "v_prediction"):
        scheduler = DDPMScheduler.from_pretrained(tiny_model, subfolder="scheduler", prediction_type=kind)
        denoiser = UNetDenoiser(unet, scheduler)
        sigma = denoiser.sigmas[steps]
        with torch.no_grad():
            output = unet(scheduler.add_noise(clean, noise, steps), steps, encoder_hidden_states=context).sample
            text = {"clip_l": TextFeatures(context, context)}
            estimate = denoiser.denoise(denoiser.noised(clean, noise, sigma), sigma, text)
        target = noise if kind == "epsilon" else scheduler.get_velocity(clean, noise, steps)
        ours = denoiser.weight(sigma) * noise_error(clean, estimate, sigma)
        assert torch.allclose(ours, _mean(output - target), rtol=1e-3)


@pytest.mark.parametrize("logit_normal", [False, True])
def test_stratified_sigmas_one_from_each_slice(logit_normal):
    sigmas = (torch.arange(100_000.0) + 0.5) / 100_000
    drawn = stratified_sigmas(sigmas, 20, torch.Generator().manual_seed(0), logit_normal)
    places = torch.special.ndtr(drawn.logit()) if logit_normal else drawn
    assert torch.equal((places * 20).sort().values.floor(), torch.arange(20.0))
    assert not torch.equal(drawn, drawn.sort().values)
    assert torch.equal(drawn, stratified_sigmas(sigmas, 20, torch.Generator().manual_seed(0), logit_normal))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_time_steps_of_flow_models_are_logit_normal_before_the_shift(shift):
    """Quantiles of 100 000 draws, of which the standard error is below 0.002: sigmoid(z) for the normal quantile z, then shifted."""
    times = torch.arange(1, 1001) / 1000
    sigmas = shift * times / (1 + (shift - 1) * times)  # as ComfyUI's ModelSamplingDiscreteFlow
    drawn = sigmas[random_steps(1000, 100_000, torch.Generator().manual_seed(0), logit_normal=True)]
    probable = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    expected = torch.special.ndtri(probable).sigmoid()
    expected = shift * expected / (1 + (shift - 1) * expected)
    assert torch.allclose(drawn.quantile(probable), expected, atol=0.008)
    assert drawn.min() < 0.05
    assert drawn.max() > 0.97


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.3, 0.9)])
def test_any_first_spread_sigmas_are_spread(low, high):
    sigmas = torch.arange(100_000.0)
    drawn = spread_sigmas(sigmas, 100, torch.Generator().manual_seed(0), low, high)
    places = (drawn / 100_000 - low) / (high - low)
    assert places.min() >= 0
    assert places.max() < 1
    for count in (2, 4, 8, 16, 32, 64):  # equal distances, around the circle
        turned = places[:count].sort().values
        gaps = torch.cat([turned[1:], turned[:1] + 1]) - turned
        assert torch.allclose(gaps, torch.full((count,), 1 / count), atol=1e-3)
    for count in (3, 23, 100):  # no gap is twice as wide as it need be
        turned = places[:count].sort().values
        assert (torch.cat([turned[1:], turned[:1] + 1]) - turned).max() < 2 / count + 1e-3


def test_spread_sigmas_begin_with_those_of_fewer_and_follow_the_seed():
    def draw(count, seed):
        return spread_sigmas(torch.arange(1000.0), count, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(64, 0)[:20], draw(20, 0))
    assert not torch.equal(draw(20, 0), draw(20, 1))
    assert draw(1, 3).shape == (1,)
