"""Stage: the autoencoder, a narrow ``AutoencoderTiny`` that can be embedded in TAESD (see ``hosts/comfy/taesd.py``)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

from .optimizer import MuonWithAdamW
from .shapes import Glyphs
from .stage import Stage

__all__ = ["LATENT_CHANNELS", "make_autoencoder", "psnr", "standardise", "train_autoencoder"]

LATENT_CHANNELS = 4


def make_autoencoder() -> AutoencoderTiny:
    """64 x 64 pixels <-> 4 x 8 x 8 latents of unit variance."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(0, 1, 1, 2),
        num_decoder_blocks=(3, 2, 1, 0),
        latent_channels=LATENT_CHANNELS,
        scaling_factor=1.0,
    )


def train_autoencoder(model: AutoencoderTiny, glyphs: Glyphs, stage: Stage, *, batch_size: int = 32) -> None:
    """Train to reconstruct images, with latents of mean 0 and variance 1 that are uncorrelated.

    For the last third of the steps, the encoder is frozen and its latents are standardised exactly.
    """
    edges = ("encoder.layers.0.", f"decoder.layers.{len(model.decoder.layers) - 1}.")
    optimizer = MuonWithAdamW(
        model.named_parameters(),
        matrix=lambda n, p: p.ndim >= 2 and not n.startswith(edges),
        lr_muon=0.01,
        lr_adamw=2e-3,
    )
    probe = glyphs.batch(256, torch.Generator().manual_seed(2), test=True)[0]
    freeze_at = stage.steps * 2 // 3
    for tick in stage.ticks({"model": model, "optimizer": optimizer}, warmup=30):
        if tick.step == freeze_at:
            standardise(model, glyphs)
        frozen = tick.step >= freeze_at
        model.encoder.requires_grad_(not frozen)
        pixels = glyphs.batch(batch_size)[0] * 2 - 1
        latents = model.encode(pixels).latents
        error = model.decode(latents + 0.05 * torch.randn_like(latents)).sample - pixels
        loss = error.square().mean() + 0.5 * error.abs().mean()
        if not frozen:
            loss = loss + _unit_penalty(latents)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(tick.scale)
        if tick.step % 50 == 0:
            print(
                f"autoencoder {tick.step} {tick.seconds:.0f}s loss {loss.item():.4f} psnr {psnr(model, probe):.2f}",
                flush=True,
            )


def _unit_penalty(latents: Tensor) -> Tensor:
    values = latents.transpose(0, 1).flatten(1)  # (4, B * 8 * 8)
    correlation = values.corrcoef() - torch.eye(len(values))
    return (
        0.02 * (values.mean(1).square().mean() + (values.std(1) - 1).square().mean())
        + 0.01 * correlation.square().mean()
    )


@torch.no_grad()
def standardise(model: AutoencoderTiny, glyphs: Glyphs) -> None:
    """Fold the latents' mean and standard deviation into the encoder's last convolution."""
    generator = torch.Generator().manual_seed(4)
    latents = torch.cat([model.encode(glyphs.batch(200, generator)[0] * 2 - 1).latents for _ in range(8)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    last = model.encoder.layers[-1]
    last.weight.div_(deviation.view(-1, 1, 1, 1))
    last.bias.sub_(mean).div_(deviation)


@torch.no_grad()
def psnr(model: AutoencoderTiny, images: Tensor) -> float:
    restored = (model.decode(model.encode(images * 2 - 1).latents).sample + 1) / 2
    return -10 * math.log10(F.mse_loss(restored.clamp(0, 1), images).item())
