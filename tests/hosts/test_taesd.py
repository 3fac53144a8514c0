"""Widening changes the shapes of the autoencoder, not its outputs."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mcti_core.hosts.comfy.taesd import SD15_LATENT_SCALE, widen_to_taesd

diffusers = pytest.importorskip("diffusers", reason="the pocket autoencoder is a diffusers model")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(conv(64, 64), nn.ReLU(), conv(64, 64), nn.ReLU(), conv(64, 64))

    def forward(self, x):
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    def forward(self, x):
        return torch.tanh(x / 3) * 3


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class Taesd(nn.Module):
    """ComfyUI's comfy/taesd/taesd.py, retold."""

    def __init__(self):
        super().__init__()
        encoder, decoder = [conv(3, 64), Block()], [Clamp(), conv(4, 64), nn.ReLU()]
        for _ in range(3):
            encoder += [conv(64, 64, stride=2, bias=False), Block(), Block(), Block()]
            decoder += [Block(), Block(), Block(), nn.Upsample(scale_factor=2), conv(64, 64, bias=False)]
        self.taesd_encoder = nn.Sequential(*encoder, conv(64, 4))
        self.taesd_decoder = nn.Sequential(*decoder, Block(), conv(64, 3))
        self.vae_scale, self.vae_shift = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

    def encode(self, x):
        return self.taesd_encoder(x * 0.5 + 0.5) / self.vae_scale + self.vae_shift

    def decode(self, z):
        return self.taesd_decoder((z - self.vae_shift) * self.vae_scale).sub(0.5).mul(2)


def slim(width=32, encoder_blocks=(0, 1, 1, 2), decoder_blocks=(3, 2, 1, 0), seed=0):
    """Random weights under which signals neither die nor explode, and are as often below zero as above."""
    model = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=encoder_blocks,
        num_decoder_blocks=decoder_blocks,
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        fan_in = parameter[0].numel()
        nn.init.normal_(parameter, std=(1 / fan_in) ** 0.5 if parameter.ndim > 1 else 0.1, generator=generator)
    return model.requires_grad_(False)


def widened(model):
    taesd = Taesd()
    taesd.load_state_dict(widen_to_taesd(model.state_dict()), strict=True)
    return taesd.requires_grad_(False)


SHAPES = {
    "pocket": {},
    "no block anywhere but where TAESD starts": {"encoder_blocks": (0, 0, 0, 0), "decoder_blocks": (1, 0, 0, 0)},
    "no block anywhere": {"encoder_blocks": (0, 0, 0, 0), "decoder_blocks": (0, 0, 0, 0)},
    "narrow and odd": {"width": 5, "encoder_blocks": (1, 3, 0, 2), "decoder_blocks": (2, 0, 3, 1)},
    "TAESD itself": {"width": 64, "encoder_blocks": (1, 3, 3, 3), "decoder_blocks": (3, 3, 3, 1)},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_encodes_and_decodes_as_before(shape):
    small, wide = slim(**shape), widened(slim(**shape))
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    latents = torch.randn(2, 4, 4, 4, generator=generator) * 2
    encoded, decoded = small.encode(pixels).latents, small.decode(latents).sample
    assert encoded.std() > 0.01 < decoded.std()
    assert_close(wide.encode(pixels) * SD15_LATENT_SCALE, encoded, atol=1e-4, rtol=0)
    assert_close(wide.decode(latents / SD15_LATENT_SCALE), decoded, atol=1e-4, rtol=0)


def test_is_exact_but_for_rounding():
    """In double precision the difference falls with the rounding error."""
    small, wide = slim().double(), widened(slim()).double()
    wide.vae_scale.fill_(1)
    pixels = torch.rand(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = small.encode(pixels).latents
    assert_close(wide.encode(pixels), latents, atol=1e-12, rtol=0)
    assert_close(wide.decode(latents), small.decode(latents).sample, atol=1e-12, rtol=0)


def test_keeps_the_dtype():
    dtypes = {key: value.dtype for key, value in widen_to_taesd(slim().half().state_dict()).items()}
    assert dtypes.pop("vae_scale") == dtypes.pop("vae_shift") == torch.float32
    assert set(dtypes.values()) == {torch.float16}
