"""Widen the pocket checkpoint's slim autoencoder to TAESD, the one tiny autoencoder that ComfyUI can build.

ComfyUI's TAESD (comfy/taesd/taesd.py, after https://github.com/madebyollin/taesd) has one size: 64 channels, blocks
(1, 3, 3, 3) in the encoder and (3, 3, 3, 1) in the decoder. A slimmer network of the same kind is a special case of it:

- a missing channel is a channel of zeros;
- a missing block is a block of zeros, which is relu(x + 0) = x, because x >= 0 after another block;
- after a convolution without any block, x may be negative. There the spare channels contain [x, -x], a block of zeros
  makes it [relu(x), relu(-x)], and the next convolution takes the difference of the two, which is x.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product, zip_longest

import torch
from torch import Tensor

__all__ = ["SD15_LATENT_SCALE", "widen_to_taesd"]

SD15_LATENT_SCALE = 0.18215
"""Scale of ComfyUI's ``latent_formats.SD15``: it multiplies encoded latents by this, and divides latents to decode."""

_WIDTH = 64
_BLOCK = {"weight": (_WIDTH, _WIDTH, 3, 3), "bias": (_WIDTH,)}
_ENCODER = {0: (1,), 2: (3, 4, 5), 6: (7, 8, 9), 10: (11, 12, 13), 14: ()}
_DECODER = {1: (3, 4, 5), 7: (8, 9, 10), 12: (13, 14, 15), 17: (18,), 19: ()}
"""Indices in TAESD's two ``nn.Sequential``: of each convolution, and of the blocks after it."""
_BEFORE_RELU = 1
"""A separate ReLU follows the decoder's first convolution only."""


def widen_to_taesd(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same autoencoder in ComfyUI's shapes. It encodes and decodes equally, up to the order in which sums are rounded.

    Args:
        state_dict: of a diffusers ``AutoencoderTiny`` (ReLU, nearest upsampling) with no more blocks than TAESD and one
            width of at most 64, or 32 if a level has no block: ``encoder.layers.N.*`` and ``decoder.layers.N.*``.

    Returns:
        A state dict for ``comfy.sd.VAE(sd=...)``: ``taesd_encoder.N.*`` and ``taesd_decoder.N.*`` in the same dtype, and the
        float32 scalars ``vae_scale`` and ``vae_shift``. ComfyUI encodes to ``encoder(x) / vae_scale + vae_shift``, which its
        SD 1.5 latent format multiplies by 0.18215; so with a scale of 0.18215 its UNet gets the same latents, of unit
        variance, as this autoencoder's, and back.
    """
    wide = {"vae_scale": torch.tensor(SD15_LATENT_SCALE), "vae_shift": torch.tensor(0.0)}
    for part, layout in (("encoder", _ENCODER), ("decoder", _DECODER)):
        start = f"{part}.layers."
        slim = {key.removeprefix(start): value for key, value in state_dict.items() if key.startswith(start)}
        wide |= {f"taesd_{part}.{key}": value for key, value in _widen(slim, layout).items()}
    return wide


def _widen(slim: dict[str, Tensor], layout: dict[int, tuple[int, ...]]) -> dict[str, Tensor]:
    """One ``nn.Sequential``."""
    wide: dict[str, Tensor] = {}
    paired = False  # whether x is given as [x, -x]
    for (place, places), (index, blocks) in zip(layout.items(), _levels(slim).items(), strict=True):
        kernel, bias = slim[f"{index}.weight"], slim.get(f"{index}.bias")
        outputs, inputs = (_WIDTH if places else kernel.shape[0]), (_WIDTH if wide else kernel.shape[1])
        if paired:
            kernel = torch.cat([kernel, -kernel], dim=1)
        paired = bool(places) and not blocks and place != _BEFORE_RELU
        if paired:
            kernel, bias = torch.cat([kernel, -kernel]), None if bias is None else torch.cat([bias, -bias])
        wide[f"{place}.weight"] = _pad(kernel, outputs, inputs, 3, 3)
        if bias is not None:
            wide[f"{place}.bias"] = _pad(bias, outputs)
        for to, block in zip_longest(places, blocks):
            for layer, (kind, shape) in product((0, 2, 4), _BLOCK.items()):
                name = f"conv.{layer}.{kind}"
                tensor = kernel.new_zeros(0, *shape[1:]) if block is None else slim[f"{block}.{name}"]
                wide[f"{to}.{name}"] = _pad(tensor, *shape)
    return wide


def _levels(keys: Iterable[str]) -> dict[int, list[int]]:
    """Index of each convolution, and of the blocks after it."""
    layers = sorted({(int(layer), rest.startswith("conv.")) for layer, _, rest in (key.partition(".") for key in keys)})
    levels: dict[int, list[int]] = {}
    for layer, is_block in layers:
        if is_block:
            list(levels.values())[-1].append(layer)
        else:
            levels[layer] = []
    return levels


def _pad(tensor: Tensor, *shape: int) -> Tensor:
    """``tensor`` padded with zeros: more channels, the same kernel."""
    assert tensor.shape[2:] == shape[2:]  # the pocket checkpoint's autoencoder fits
    padded = tensor.new_zeros(shape)
    padded[tuple(slice(size) for size in tensor.shape)] = tensor
    return padded
