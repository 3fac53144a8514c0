"""ComfyUI's MODEL as a denoiser: epsilon-, v- and flow-prediction, with all of its patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_sampling
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import HostError
from ..base import TextFeatures
from ..gradient_scaling import scale_gradients

__all__ = ["ComfyDenoiser"]

_SD3_CONTEXT = 4096
"""Width of T5's context, to which Stable Diffusion 3 pads CLIP's contexts."""


class ComfyDenoiser:
    """A ``comfy.model_patcher.ModelPatcher`` of a diffusion model as a ``Denoiser``.

    Args:
        patcher: MODEL, with its LoRA, attention and sampling patches.
        encoders: names of the text encoders that come with it.
        with_t5: whether the CLIP is Stable Diffusion 3's, which may include T5. T5's part of the context stays empty, as in
            ComfyUI without T5: tokens are trained for CLIP only.
        pixels: of a latent element, 8.

    Raises:
        HostError: an inpainting model or another model that needs more than a prompt, or another kind of prediction.
    """

    def __init__(self, patcher: Any, encoders: tuple[str, ...], with_t5: bool = False, pixels: int = 8):
        self._patcher, self._model, self._with_t5, self._pixels = patcher, patcher.model, with_t5, pixels
        self._encoders = encoders
        self._sampling: Any = patcher.get_model_object("model_sampling")
        known = (comfy.model_sampling.EPS, comfy.model_sampling.CONST)
        if not isinstance(self._sampling, known) or isinstance(self._sampling, comfy.model_sampling.X0):
            raise HostError(
                f"the MODEL samples by {type(self._sampling).__name__}; tokens can be trained for noise, v and flow prediction"
            )
        channels = self._model.model_config.unet_config.get("in_channels", self._model.latent_format.latent_channels)
        if self._model.concat_keys or channels != self._model.latent_format.latent_channels:
            raise HostError(
                "the MODEL is for inpainting or editing: it takes an image beside the prompt; connect a text-to-image model"
            )
        self.sigmas: Tensor = self._sampling.sigmas.detach().float().clone().to(patcher.load_device)

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return self._sampling.noise_scaling(sigma, noise, latents)

    def denoise(self, noised: Tensor, sigma: Tensor, text: Mapping[str, TextFeatures]) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()  # the first step of a large batch may take minutes
        dtype = self._model.manual_cast_dtype or self._model.get_dtype()
        text, enlarged = scale_gradients(text, dtype)
        context, pooled = self._conditioning(text)
        height, width = (self._pixels * side for side in noised.shape[-2:])
        extra = self._model.extra_conds(
            cross_attn=context, pooled_output=pooled, noise=noised, device=noised.device, width=width, height=height
        )
        conditions = {name: condition.cond for name, condition in extra.items()}
        options = {**self._patcher.model_options.get("transformer_options", {}), "sigmas": sigma}
        options |= {"cond_or_uncond": [0] * len(noised), "sample_sigmas": self.sigmas}
        if torch.is_grad_enabled():
            options["optimized_attention_override"] = _differentiable_attention
        conditions["transformer_options"] = options
        wrapper = self._patcher.model_options.get("model_function_wrapper")
        if wrapper is None:
            return enlarged(self._model.apply_model(noised, sigma, **conditions))
        given = {"input": noised, "timestep": sigma, "c": conditions, "cond_or_uncond": options["cond_or_uncond"]}
        return enlarged(wrapper(self._model.apply_model, given))

    def weight(self, sigma: Tensor) -> Tensor:
        """v-prediction and EDM weight the noise error by (sigma^2 + sigma_data^2) / sigma_data^2."""
        if not isinstance(self._sampling, comfy.model_sampling.V_PREDICTION):
            return torch.ones_like(sigma)
        return (sigma / float(self._sampling.sigma_data)).square() + 1

    def _conditioning(self, text: Mapping[str, TextFeatures]) -> tuple[Tensor, Tensor | None]:
        """Combine the encoders' features as ComfyUI's CLIP does: context (B, L, d_ctx), and the pooled vector (B, d)."""
        if len(self._encoders) == 1:
            features = text[self._encoders[0]]
            return features.context, features.pooled
        joined = torch.cat([text[name].context for name in self._encoders], dim=-1)
        if not self._with_t5:
            return joined, text["clip_g"].pooled
        pooled = torch.cat([_pooled(text[name]) for name in self._encoders], dim=-1)
        return F.pad(joined, (0, _SD3_CONTEXT - joined.shape[-1])), pooled


def _differentiable_attention(chosen: Any, *arguments: Any, **more: Any) -> Tensor:
    """Use PyTorch's attention instead of ComfyUI's choice: several fast kernels have no backward, and the others save more."""
    return comfy.ldm.modules.attention.attention_pytorch(*arguments, **more)


def _pooled(features: TextFeatures) -> Tensor:
    assert features.pooled is not None  # every ComfyTextEncoder returns one
    return features.pooled
