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
    host: Host,
    prompts: Sequence[str | int],
    tokens: TokenSet | None = None,
    *,
    negative_prompt: str = "",
    num_inference_steps: int = 25,
    guidance_scale: float = 5.0,
    seed: int = 0,
    size: int | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], object] | None = None,
    on_image: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Draw one image per prompt.

    Args:
        host: with denoiser and codec.
        prompts: B texts, in which ``embedding:<name>`` or ``{name}`` is a token of ``tokens``; or indices of classes, which
            are drawn in the tokens' first template, read as in training: as plain words.
        tokens: the token set that the names refer to.
        negative_prompt: the prompt that guidance leads away from.
        num_inference_steps: denoiser calls per image, each with a doubled batch.
        guidance_scale: guidance scale; 1 is no guidance.
        seed: of the initial noise. Image i of a seed starts from the same noise for any batch size.
        size: side in pixels; by default the host's own.
        batch_size: maximum number of images at once; halved if memory runs out.
        progress: called with the number of finished images and of all images.
        on_image: called with the index and the (3, size, size) pixels of each finished image; images are then not kept.

    Returns:
        (B, 3, size, size) float32 in [0, 1] on the CPU; with ``on_image`` empty, (0, 3, size, size).

    Raises:
        ConfigError: no list of prompts; no prompts or steps, ``batch_size`` below 1; guidance that is not finite, or a size that is not a multiple of the VAE's.
        TokenError: a prompt names an unknown token, is too long, or is the index of no class.
        HostError: not even one image fits into memory; images contain NaN.

    References:
        Euler's method on the probability-flow ODE: Karras et al. 2022, arXiv 2206.00364, alg. 1 without churn. For
        epsilon models it is DDIM (Song et al. 2021).
    """
    if isinstance(prompts, str):
        raise ConfigError(f"prompts must be a list of texts, got a single one; write [{prompts[:40]!r}]")
    if not prompts or num_inference_steps < 1 or batch_size < 1:
        raise ConfigError(
            f"generating takes at least one prompt, step and image at once, got {len(prompts)}, {num_inference_steps} and {batch_size}"
        )
    if not math.isfinite(guidance_scale):
        raise ConfigError(f"guidance_scale must be a finite number, got {guidance_scale}")
    denoiser, codec = host.require_denoiser(), host.require_codec()
    pixels = host.image_size if size is None else size
    if pixels < 1 or pixels % codec.downscale:
        raise ConfigError(f"the image size {pixels} is not a multiple of {codec.downscale}")
    side = pixels // codec.downscale
    sigmas = _descending(denoiser.sigmas.cpu(), num_inference_steps)
    generator = torch.Generator().manual_seed(seed)
    # one by one: the values that a generator draws can depend on the number drawn at once
    noises = [torch.randn(codec.channels, side, side, generator=generator) for _ in prompts]

    def drawn(part: slice) -> Tensor:
        texts = [*prompts[part], *[negative_prompt] * (part.stop - part.start)]
        images = _draw(host, torch.stack(noises[part]), sigmas, _encode(host, texts, tokens), guidance_scale)
        _refuse_broken(images, part.start)
        if on_image is not None:
            for number, image in enumerate(images, part.start):
                on_image(number, image)
            images = images[:0].clone()
        if progress is not None:
            progress(part.stop, len(prompts))
        return images

    advice = f"a single image of {pixels} pixels does not fit into memory; choose a smaller size, or free memory that other programs use"
    with torch.inference_mode(), host.session("text", "denoiser", "codec"):
        parts = in_parts_that_fit(drawn, len(prompts), batch_size, advice)
    return torch.cat(parts).clone()


def _refuse_broken(images: Tensor, first: int) -> None:
    broken = [first + number for number, image in enumerate(images) if not image.isfinite().all()]
    if broken:
        raise HostError(
            f"the model output values that are not numbers for image {broken[0] + 1}; load it in another number format "
            "(bf16 or fp32), or a lower guidance scale"
        )


def _draw(host: Host, noise: Tensor, sigmas: Tensor, text: Mapping[str, Features], guidance_scale: float) -> Tensor:
    """(n, c, h, w) noise and text features of n prompts and n negative prompts -> images on the CPU."""
    denoiser, noise = host.require_denoiser(), noise.to(host.device)
    x = denoiser.noised(torch.zeros_like(noise), noise, sigmas[:1].expand(len(noise)).to(host.device))
    for sigma, lower in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        both = denoiser.denoise(x.repeat(2, 1, 1, 1), torch.full((2 * len(noise),), sigma, device=host.device), text)
        wanted, unwanted = both.chunk(2)
        estimate = unwanted + guidance_scale * (wanted - unwanted)
        x = x + (x - estimate) / sigma * (lower - sigma)
    return host.require_codec().decode(x).cpu()


def _descending(sigmas: Tensor, steps: int) -> Tensor:
    """(steps + 1,) noise levels at equally spaced time steps, from the highest down to zero."""
    chosen = torch.linspace(len(sigmas) - 1, 0, steps + 1)[:-1].round().long()
    return torch.cat([sigmas[chosen], torch.zeros(1)])


def _encode(host: Host, texts: Sequence[str | int], tokens: TokenSet | None) -> dict[str, Features]:
    names, labels, count = (tokens.names, tokens.labels, tokens.vectors_per_token) if tokens else ((), (), 1)
    template = tokens.templates[0] if tokens else ""
    prompts = host_prompts(host, texts, names, count, labels, template=template)
    if tokens is None:
        bank = {name: torch.zeros(1, 1, encoder.width) for name, encoder in host.text.items()}
    else:
        bank = {name: vectors.flatten(0, 1)[None] for name, vectors in tokens.vectors.items()}  # (1, C * V, d)
    return conditioning(host, prompts, {name: vectors.to(host.device) for name, vectors in bank.items()})
