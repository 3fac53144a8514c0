"""Small models of families with other text encoders than CLIP, with random weights, through ComfyUI's own classes.

A family is recognised by its configuration; widths and depths are small. Import it inside ComfyUI only.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.chroma.model
import comfy.ldm.flux.model
import comfy.ldm.wan.vae
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models as supported
import comfy.text_encoders.sd3_clip
import torch
from comfy.supported_models_base import ClipTarget
from synthetic_checkpoints import Weights, windows
from torch import nn

__all__ = ["FAMILIES", "small_family"]

WIDTH = 64
T5 = {"d_ff": 128, "d_kv": 16, "d_model": WIDTH, "num_heads": 4, "num_layers": 2}
CLIP = {"num_hidden_layers": 3, "intermediate_size": 128}
LLM = {"hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": WIDTH, "hidden_size": 64, "mlp_ratio": 2.0,
    "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
CHROMA = {**{key: value for key, value in FLUX.items() if key != "guidance_embed"}, "in_channels": 64, "out_channels": 64, "vec_in_dim": 0, "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 1}  # fmt: skip
LUMINA = {
    "patch_size": 2, "in_channels": 16, "dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
    "qk_norm": True, "cap_feat_dim": WIDTH, "axes_dims": [8, 12, 12], "axes_lens": [300, 64, 64], "multiple_of": 32,
}  # fmt: skip
SD3 = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None, "adm_in_channels": 2048,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
    "num_patches": 36864, "pos_embed_max_size": 192, "pos_embed_scaling_factor": None, "x_block_self_attn_layers": [],
}  # fmt: skip
PIXART = {"in_channels": 4, "hidden_size": 64, "depth": 2, "num_heads": 2, "caption_channels": WIDTH, "input_size": 128, "micro_condition": False, "pe_interpolation": 1}  # fmt: skip
QWEN = {
    "in_channels": 64, "out_channels": 16, "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
    "joint_attention_dim": WIDTH, "axes_dims_rope": (8, 12, 12),
}  # fmt: skip

INPUTS = ("x_embedder.weight", "x_embedder.proj.weight", "img_in.weight")
"""Of the diffusion models. Little of what they answer is owed to the latents and much to the prompt, so that a few steps tell."""

FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sd3": ("SD3", SD3, {"clip_l": CLIP, "clip_g": CLIP, "t5xxl": {**T5, "d_model": 4096}}),
    "flux": ("Flux", {"image_model": "flux", **FLUX}, {"clip_l": CLIP, "t5xxl": T5}),
    "chroma": ("Chroma", {"image_model": "chroma", **CHROMA}, {"t5xxl": T5}),
    "pixart": ("PixArtAlpha", {"image_model": "pixart_alpha", **PIXART}, {"t5xxl": T5}),
    "lumina2": ("Lumina2", {"image_model": "lumina2", **LUMINA}, {"gemma2_2b": {**LLM, "vocab_size": 512}}),
    "z-image": (
        "ZImage",
        {
            "image_model": "lumina2",
            **LUMINA,
            "dim": 256,
            "n_heads": 8,
            "n_kv_heads": 8,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 4,
        },
        {"qwen3_4b": LLM},
    ),
    "qwen-image": ("QwenImage", {"image_model": "qwen_image", **QWEN}, {"qwen25_7b": LLM}),
}
"""By our name: ComfyUI's name, the diffusion model's configuration, and the text encoders'."""


@torch.inference_mode()  # as loader nodes do
def small_family(
    name: str, embeddings: Any = None, *, dtype: torch.dtype = torch.float32, stored: bool = True, text: Any = None
) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE.

    Args:
        name: a key of ``FAMILIES``.
        embeddings: folder that the CLIP looks up embedding files in.
        dtype: whose numbers the weights are.
        stored: whether they are also stored so, or in float32.
        text: the CLIP's weights, of which some are quantised; random ones otherwise.
    """
    weights = dtype if stored else torch.float32
    kind, unet, encoders = FAMILIES[name]
    if kind in ("Flux", "Chroma"):  # of which older versions have fewer parameters
        params = comfy.ldm.flux.model.FluxParams if kind == "Flux" else comfy.ldm.chroma.model.ChromaParams
        known = {"image_model", *(field.name for field in dataclasses.fields(params))}
        unet = {key: value for key, value in unet.items() if key in known}
    config = getattr(supported, kind)(dict(unet))
    config.set_inference_dtype(weights, None if weights == torch.float32 else torch.float32)
    with weights_at_once():
        model = config.get_model({}, device=torch.device("cpu"))
    fill(model.diffusion_model, 0, dtype)
    device = comfy.model_management.get_torch_device()
    patcher_of = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)  # since v0.16.0
    patcher = patcher_of(model, load_device=device, offload_device=torch.device("cpu"))
    target = config.clip_target({})
    if name == "sd3":
        target = ClipTarget(target.tokenizer, comfy.text_encoders.sd3_clip.sd3_clip(clip_l=True, clip_g=True, t5=True))
    options = {f"{encoder}_model_config": dict(own) for encoder, own in encoders.items()}
    data = {"spiece_model": sentence_pieces()} if name == "lumina2" else {}
    options["dtype"] = weights
    given = {} if text is None else {"state_dict": text}
    if text is not None:
        options |= {f"{of}quantization_metadata": {"mixed_ops": True} for of in ("", "t5xxl_")}
    with weights_at_once():
        clip = comfy.sd.CLIP(
            target, embedding_directory=embeddings, tokenizer_data=data, model_options=options, **given
        )
    if name == "qwen-image":
        clip.cond_stage_model.qwen25_7b.transformer.visual = nn.Identity()  # for images in prompts, and too large
    if text is None:
        fill(clip.cond_stage_model, 1, dtype)
    return patcher, clip, small_vae(name, config.latent_format)


@contextmanager
def weights_at_once() -> Iterator[None]:
    """Make weights with the modules, also under dynamic VRAM, which else waits for those of a file."""
    management = sys.modules.get("comfy.memory_management")
    if management is None:
        yield
        return
    before, management.aimdo_enabled = management.aimdo_enabled, False
    try:
        yield
    finally:
        management.aimdo_enabled = before


def small_vae(name: str, latent_format: Any) -> Any:
    weights = Weights()
    if name != "qwen-image":
        channels = latent_format.latent_channels
        weights.tiny_vae("", channels, 1 / 3 if channels == 16 else 0.18215)
        return comfy.sd.VAE(sd=windows(weights.spreads, 2) | weights.fixed, dtype=torch.float32)
    vae = comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[], temperal_downsample=[False, True, True])  # fmt: skip
    fill(vae, 2, torch.float32)
    vae.conv1.weight.mul_(6.0)  # latents then vary about as much as noise does
    return comfy.sd.VAE(sd=vae.state_dict(), dtype=torch.float32)


def fill(module: nn.Module, seed: int, dtype: torch.dtype) -> None:
    """Random numbers of a dtype by which every layer's output is about as large as its input. Large tables are overlapping windows."""
    random = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        flat = weight.numel()
        if weight.ndim < 2:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        elif flat > 2**23:
            owner, own = module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
            buffer = torch.randn(16 * weight.shape[0] + weight.shape[1], generator=random) * 0.05
            buffer = buffer.to(dtype).to(weight.dtype)
            owner._parameters[own] = nn.Parameter(buffer.as_strided(weight.shape, (16, 1)), requires_grad=False)
        else:
            scale = (
                0.05
                if isinstance(module.get_submodule(name.rpartition(".")[0]), nn.Embedding)
                else weight[0].numel() ** -0.5
            )
            scale *= 0.1 if name in INPUTS else 1
            weight.copy_((torch.randn(weight.shape, generator=random) * scale).to(dtype))


def sentence_pieces() -> torch.Tensor:
    """A tokenizer as Gemma's file holds one, with as few pieces as there may be."""
    import io

    import sentencepiece

    written = io.BytesIO()
    lines = [
        "a photo of a cat on a red chair",
        "two boats at night, an object in snow",
        "a drawing of the cup on a table",
    ] * 4
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, vocab_size=400, byte_fallback=True, hard_vocab_limit=False,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, minloglevel=2,
    )  # fmt: skip
    return torch.tensor(list(written.getvalue()), dtype=torch.uint8)
