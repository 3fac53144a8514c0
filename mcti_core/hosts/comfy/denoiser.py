"""ComfyUI's MODEL as a denoiser: epsilon-, v- and flow-prediction, with all of its patches."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor

from ...errors import HostError
from ..base import WHOLE_PROMPT
from ..features import Conditioning, Features, TextFeatures, on_device
from ..gradient_scaling import scale_gradients
from .out_of_place import out_of_place

__all__ = ["ComfyDenoiser"]


class ComfyDenoiser:
    """A ``comfy.model_patcher.ModelPatcher`` of a diffusion model as a ``Denoiser``.

    Args:
        patcher: MODEL, with its LoRA, attention and sampling patches.
        pixels: side of a latent element in pixels.

    Raises:
        HostError: an inpainting model or another model that needs more than a prompt, or another kind of prediction.
    """

    def __init__(self, patcher: Any, pixels: int = 8):
        self._patcher, self._model, self._pixels = patcher, patcher.model, pixels
        self._sampling: Any = patcher.get_model_object("model_sampling")
        supported = (comfy.model_sampling.EPS, comfy.model_sampling.CONST)
        if not isinstance(self._sampling, supported) or isinstance(self._sampling, comfy.model_sampling.X0):
            raise HostError(
                f"the MODEL samples by {type(self._sampling).__name__}; tokens can be trained for noise, v and flow prediction"
            )
        self.is_flow = isinstance(self._sampling, comfy.model_sampling.CONST)
        self._frames = self._model.latent_format.latent_dimensions - 2
        """Number of axes between channels and height: 1 for video models, whose latents have one frame here."""
        if self._frames < 0:
            raise HostError(f"the MODEL, {type(self._model).__name__}, makes no images; connect a text-to-image model")
        if self._takes_an_image():
            raise HostError(
                "the MODEL is for inpainting or editing: it takes an image beside the prompt; connect a text-to-image model"
            )
        self.sigmas: Tensor = self._sampling.sigmas.detach().float().clone().to(patcher.load_device)

    def _takes_an_image(self) -> bool:
        model, channels = self._model, self._model.latent_format.latent_channels
        if model.concat_keys or "context_dim" in model.model_config.unet_config:  # a UNet
            return bool(model.concat_keys) or model.model_config.unet_config.get("in_channels", channels) != channels
        noise = torch.zeros(1, channels, *[1] * self._frames, 16, 16)
        try:
            return model.concat_cond(noise=noise, device=noise.device) is not None
        except Exception:  # a missing image may raise any type
            return True

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return self._sampling.noise_scaling(sigma, noise, latents)

    def denoise(self, noised: Tensor, sigma: Tensor, conditioning: Mapping[str, Any]) -> Tensor:
        dtype = self._model.manual_cast_dtype or self._model.get_dtype()
        conditioning, unscale = scale_gradients(conditioning, dtype)
        noised = noised.unflatten(1, (-1, *[1] * self._frames))  # (B, c, 1, h, w) of videos
        prompts = conditioning.get(WHOLE_PROMPT)
        if isinstance(prompts, Conditioning):
            # one prompt at a time, as ComfyUI does: its masks and lengths are not always right for several prompts
            rows = [self._conditions(noised[i : i + 1], **prompts.single(i)) for i in range(len(noised))]
            groups, within = _batchable_groups(rows), out_of_place if torch.is_grad_enabled() else nullcontext
        else:
            rows, groups, within = [self._conditions(noised, **_combined_towers(conditioning))], [[0]], nullcontext
        with within():
            if len(groups) == 1:
                estimate = self._apply(noised, sigma, rows)
            else:
                parts = [on_device(torch.tensor(group), noised.device) for group in groups]
                estimates = [
                    self._apply(noised[part], sigma[part], [rows[row] for row in group])
                    for part, group in zip(parts, groups, strict=True)
                ]
                estimate = torch.cat(estimates)[torch.cat(parts).argsort()]
        return unscale(estimate.flatten(1, -3) if self._frames else estimate)

    def _conditions(self, noised: Tensor, **encoded: Tensor | None) -> dict[str, Any]:
        """Conditions that ComfyUI derives from an encoded prompt for its model (``CONDRegular`` and the like), by name."""
        height, width = (self._pixels * side for side in noised.shape[-2:])
        encoded = {"pooled_output": None, **encoded}  # in every prompt of ComfyUI; Chroma in 0.3.64 fails without it
        conditions: dict[str, Any] = self._model.extra_conds(
            noise=noised, device=noised.device, width=width, height=height, prompt_type="positive", **encoded
        )
        return {name: each.process_cond(batch_size=len(noised), area=None) for name, each in conditions.items()}

    def _apply(self, noised: Tensor, sigma: Tensor, rows: list[dict[str, Any]]) -> Tensor:
        """(B, ...), (B,), conditions of B prompts that may be joined, or one for all -> estimate of the clean latent."""
        comfy.model_management.throw_exception_if_processing_interrupted()  # the first step of a large batch may take minutes
        conditions = comfy.samplers.cond_cat(rows)
        options = {**self._patcher.model_options.get("transformer_options", {}), "sigmas": sigma}
        options |= {"cond_or_uncond": [0] * len(noised), "sample_sigmas": self.sigmas}  # which patches of nodes read
        if torch.is_grad_enabled():
            options["optimized_attention_override"] = _differentiable_attention
        conditions["transformer_options"] = options
        wrapper = self._patcher.model_options.get("model_function_wrapper")
        if wrapper is None:
            return self._model.apply_model(noised, sigma, **conditions)  # type: ignore[no-any-return]
        inputs = {"input": noised, "timestep": sigma, "c": conditions, "cond_or_uncond": options["cond_or_uncond"]}
        return wrapper(self._model.apply_model, inputs)  # type: ignore[no-any-return]

    def weight(self, sigma: Tensor) -> Tensor:
        """v-prediction and EDM weight the noise error by (sigma^2 + sigma_data^2) / sigma_data^2."""
        if not isinstance(self._sampling, comfy.model_sampling.V_PREDICTION):
            return torch.ones_like(sigma)
        return (sigma / float(self._sampling.sigma_data)).square() + 1


def _combined_towers(text: Mapping[str, Features]) -> dict[str, Tensor | None]:
    """Combine features as the CLIP of Stable Diffusion 1.x, 2.x and SDXL does: context (B, L, d_ctx), and the last pooled vector."""
    features = [each for each in text.values() if isinstance(each, TextFeatures)]
    return {"cross_attn": torch.cat([each.context for each in features], -1), "pooled_output": features[-1].pooled}


def _batchable_groups(rows: list[dict[str, Any]]) -> list[list[int]]:
    """Group the indices of rows that ComfyUI would put into one batch."""
    groups: list[list[int]] = []
    for number, row in enumerate(rows):
        group = next((each for each in groups if comfy.samplers.cond_equal_size(rows[each[0]], row)), None)
        if group is None:
            groups.append(group := [])
        group.append(number)
    return groups


def _differentiable_attention(chosen: Any, *arguments: Any, **more: Any) -> Tensor:
    """Use PyTorch's attention instead of ComfyUI's choice: several fast kernels have no backward, and the others save more."""
    return comfy.ldm.modules.attention.attention_pytorch(*arguments, **more)
