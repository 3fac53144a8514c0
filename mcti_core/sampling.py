"""Generate images from prompts with learned tokens: Euler's method on the diffusion ODE, with guidance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .errors import ConfigError, HostError
from .hosts.base import Host
from .hosts.features import Features
from .hosts.out_of_memory import in_parts_that_fit
from .prompts.splicing import conditioning, host_prompts
from .tokens.token_set import TokenSet

__all__ = ["generate"]


def generate(
    host: Host, prompts: Sequence[str | int], tokens: TokenSet | None = None, *, negative_prompt: str = "",
    num_inference_steps: int = 25, guidance_scale: float = 5.0, seed: int = 0, size: int | None = None, batch_size: int = 32,
    progress: Callable[[int, int], object] | None = None, on_image: Callable[[int, Tensor], object] | None = None,
) -> Tensor:  # fmt: skip
    """Draw one image per prompt.

    Args:
        prompts: B texts, in which ``embedding:<name>`` or ``{name}`` is a token of ``tokens``; or indices of classes, which
            are drawn in the tokens' first template, read as in training: as plain words.
        negative_prompt: the prompt that guidance leads away from.
        num_inference_steps: denoiser calls per image, each with a doubled batch.
        guidance_scale: 1 is no guidance.
        seed: of the initial noise. Image i of a seed starts from the same noise for any batch size.
        size: side in pixels; by default the host's own.
        batch_size: maximum number of images at once; halved if memory runs out.
        progress: called with the number of finished images and of all images.
        on_image: called with the index and the (3, size, size) pixels of each finished image; images are then not kept.

    Returns:
        (B, 3, size, size) float32 in [0, 1] on the CPU; with ``on_image`` empty, (0, 3, size, size).

    Raises:
        ConfigError: no list of prompts; no prompts or steps, ``batch_size`` below 1; guidance that is not finite, or a size
            that is not a multiple of the VAE's.
        TokenError: a prompt names an unknown token, is too long, or is the index of no class.
        HostError: not even one image fits into memory; images contain NaN.

    References:
        Euler's method on the probability-flow ODE: Karras et al. 2022, arXiv 2206.00364, alg. 1 without churn. For
        epsilon models it is DDIM (Song et al. 2021).
    """
    if isinstance(prompts, str):
        raise ConfigError(f"prompts must be a list of texts, got a single one; write [{prompts[:40]!r}]")
    counts = len(prompts), num_inference_steps, batch_size
    if min(counts) < 1:
        raise ConfigError(f"generating takes at least one prompt, step and image at once, got {counts}")
    if not math.isfinite(guidance_scale):
        raise ConfigError(f"guidance_scale must be a finite number, got {guidance_scale}")
    denoiser, codec = host.require_denoiser(), host.require_codec()
    pixels = host.image_size if size is None else size
    if pixels < 1 or pixels % codec.downscale:
        raise ConfigError(f"the image size {pixels} is not a multiple of {codec.downscale}")
    side = pixels // codec.downscale
    # equally spaced time steps, from the highest noise level down, and 0
    steps = torch.linspace(len(denoiser.sigmas) - 1, 0, num_inference_steps + 1)[:-1].round().long()
    sigmas = torch.cat([denoiser.sigmas.cpu()[steps], torch.zeros(1)])
    generator = torch.Generator().manual_seed(seed)
    # one by one: the values that a generator draws can depend on the number drawn at once
    noises = [torch.randn(codec.channels, side, side, generator=generator) for _ in prompts]

    def draw(part: slice) -> Tensor:
        texts = [*prompts[part], *[negative_prompt] * (part.stop - part.start)]
        images = _draw(host, torch.stack(noises[part]), sigmas, _encode(host, texts, tokens), guidance_scale)
        for number, image in enumerate(images, part.start):
            if not image.isfinite().all():
                raise HostError(
                    f"the model output values that are not numbers for image {number + 1}; load it in another number format "
                    "(bf16 or fp32), or a lower guidance scale"
                )
        if on_image is not None:
            for number, image in enumerate(images, part.start):
                on_image(number, image)
            images = images[:0].clone()
        if progress is not None:
            progress(part.stop, len(prompts))
        return images

    advice = f"a single image of {pixels} pixels does not fit into memory; choose a smaller size, or free memory that other programs use"
    with torch.inference_mode(), host.session("text", "denoiser", "codec"):
        parts = in_parts_that_fit(draw, len(prompts), batch_size, advice)
    return torch.cat(parts).clone()


def _draw(host: Host, noise: Tensor, sigmas: Tensor, text: Mapping[str, Features], guidance_scale: float) -> Tensor:
    """(n, c, h, w) noise and text features of n prompts and n negative prompts -> images on the CPU."""
    denoiser, noise = host.require_denoiser(), noise.to(host.device)
    x = denoiser.noised(torch.zeros_like(noise), noise, sigmas[:1].expand(len(noise)).to(host.device))
    for sigma, next_sigma in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        estimates = denoiser.denoise(x.repeat(2, 1, 1, 1), torch.full((2 * len(x),), sigma, device=host.device), text)
        conditional, negative = estimates.chunk(2)
        x0 = negative + guidance_scale * (conditional - negative)
        x = x + (x - x0) / sigma * (next_sigma - sigma)
    return host.require_codec().decode(x).cpu()


def _encode(host: Host, texts: Sequence[str | int], tokens: TokenSet | None) -> dict[str, Features]:
    if tokens is None:
        prompts = host_prompts(host, texts, (), 1)
        vectors = {name: torch.zeros(1, 1, encoder.width) for name, encoder in host.text.items()}
    else:
        prompts = host_prompts(
            host, texts, tokens.names, tokens.vectors_per_token, tokens.labels, template=tokens.templates[0]
        )
        vectors = {name: v.flatten(0, 1)[None] for name, v in tokens.vectors.items()}  # (1, C * V, d)
    return conditioning(host, prompts, {name: v.to(host.device) for name, v in vectors.items()})
