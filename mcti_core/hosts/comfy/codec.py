"""ComfyUI's VAE as a latent codec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import HostError
from .session import Residency

__all__ = ["ComfyCodec"]


class ComfyCodec:
    """A ``comfy.sd.VAE``, with latents in this MODEL's format. The VAE chooses its own batch size, and tiles if necessary.
    Gradients do not flow through it.

    Args:
        vae: VAE.
        latent_format: of the MODEL.
        residency: models to load again after the VAE, which may have unloaded them.

    Raises:
        HostError: the VAE is of another family than the MODEL.
    """

    def __init__(self, vae: Any, latent_format: Any, residency: Residency):
        vae_layout = vae.latent_channels, vae.latent_dim
        model_layout = latent_format.latent_channels, latent_format.latent_dimensions
        if vae_layout != model_layout:
            raise HostError(
                f"the VAE makes latents of {vae_layout[0]} channels in {vae_layout[1]} dimensions, the MODEL takes "
                f"{model_layout[0]} in {model_layout[1]}; connect the VAE of the same checkpoint"
            )
        self._video = vae_layout[1] == 3
        self._vae, self._format, self._residency = vae, latent_format, residency
        self.downscale = int(vae.spacial_compression_encode())
        self.channels = int(latent_format.latent_channels)

    def encode(self, images: Tensor) -> Tensor:
        with self._residency.interlude(), torch.no_grad():
            pixels = images.movedim(1, -1).cpu()
            # a video VAE takes the batch for frames of one video
            parts = pixels.split(1 if self._video else max(1, len(pixels)))
            latents = torch.cat([self._vae.encode(part) for part in parts])
        latents = self._format.process_in(latents.float())
        return (latents.flatten(1, 2) if self._video else latents).to(images.device)

    def decode(self, latents: Tensor) -> Tensor:
        with self._residency.interlude(), torch.no_grad():
            latents_out = self._format.process_out(latents[:, :, None] if self._video else latents)
            images = self._vae.decode(latents_out.cpu())
        images = images.flatten(0, 1) if images.ndim == 5 else images  # (B, 1, H, W, 3) of videos
        return images.movedim(-1, 1).float().clamp(0, 1).to(latents.device)
