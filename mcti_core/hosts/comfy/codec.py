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
    It passes no gradients.

    Args:
        vae: VAE.
        latent_format: of the MODEL.
        residency: models to load again after the VAE, which may have unloaded them.

    Raises:
        HostError: the VAE is of another family than the MODEL.
    """

    def __init__(self, vae: Any, latent_format: Any, residency: Residency):
        if vae.latent_dim != 2 or vae.latent_channels != latent_format.latent_channels:
            raise HostError(
                f"the VAE makes latents of {vae.latent_channels} channels in {vae.latent_dim} dimensions, the MODEL takes "
                f"{latent_format.latent_channels} in 2; connect the VAE of the same checkpoint"
            )
        self._vae, self._format, self._residency = vae, latent_format, residency
        self.downscale = int(vae.spacial_compression_encode())
        self.channels = int(latent_format.latent_channels)

    def encode(self, images: Tensor) -> Tensor:
        with self._residency.interlude(), torch.no_grad():
            latents = self._vae.encode(images.movedim(1, -1).cpu())
        return self._format.process_in(latents.float()).to(images.device)

    def decode(self, latents: Tensor) -> Tensor:
        with self._residency.interlude(), torch.no_grad():
            images = self._vae.decode(self._format.process_out(latents).cpu())
        return images.movedim(-1, 1).float().clamp(0, 1).to(latents.device)
