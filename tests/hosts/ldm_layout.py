"""A diffusers model's weights under the names of the original single-file checkpoints (Stable Diffusion 1.x and XL)."""

from __future__ import annotations

import re

import torch
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding", "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1",
    "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def ldm_checkpoint(
    text: dict[str, Tensor],
    unet: dict[str, Tensor],
    vae: dict[str, Tensor],
    layers: int,
    second: dict[str, Tensor] | None = None,
):
    """State dicts of text tower, UNet (with ``layers`` a block) and AutoencoderKL -> one of the original layout.

    ``second`` is SDXL's other text tower, which the original layout holds as open_clip does.
    """
    attended = {match[1] for match in map(re.compile(r"(up_blocks\.\d+)\.attentions").match, unet) if match}
    ups = 1 + max(int(match[1]) for match in map(re.compile(r"decoder\.up_blocks\.(\d+)").match, vae) if match)
    prefix = "cond_stage_model" if second is None else "conditioner.embedders.0"
    prefix += ".transformer.text_model."
    content = {prefix + key.removeprefix("text_model."): v for key, v in text.items()}
    content |= {f"model.diffusion_model.{_unet_key(key, layers, attended)}": v for key, v in unet.items()}
    if second is not None:
        content |= {f"conditioner.embedders.1.model.{key}": value for key, value in _open_clip(second).items()}
    for key, value in vae.items():
        is_linear = "mid_block.attentions" in key and key.endswith("weight") and value.ndim == 2
        content[f"first_stage_model.{_vae_key(key, ups)}"] = value[:, :, None, None] if is_linear else value
    return {key: value.contiguous().clone() for key, value in content.items()}


def _open_clip(text: dict[str, Tensor]) -> dict[str, Tensor]:
    text = {key.removeprefix("text_model."): value for key, value in text.items()}
    content = {"text_projection": text.pop("text_projection.weight").T}
    for key in [key for key in text if ".self_attn.q_proj." in key]:
        block, parameter = key.split(".self_attn.q_proj.")
        parts = [text.pop(key.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        content[f"{block}.attn.in_proj_{parameter}"] = torch.cat(parts)
    content |= text
    for new, old in _OPEN_CLIP.items():
        content = {key.replace(new, old): value for key, value in content.items()}
    return content


def _unet_key(key: str, layers: int, attended: set[str]) -> str:
    for new, old in _ENDS.items():
        if key.startswith(f"{new}."):
            return old + key.removeprefix(new)
    block, rest = re.fullmatch(r"(down_blocks\.\d+|up_blocks\.\d+|mid_block)\.(.*)", key).groups()
    kind, layer, tail = re.fullmatch(r"(\w+)\.(\d+)\.(.*)", rest).groups()
    layer = int(layer)
    if kind == "resnets":
        name, parameter = tail.rsplit(".", 1)
        tail = f"{_RESNET[name]}.{parameter}"
    if block == "mid_block":
        return f"middle_block.{2 * layer if kind == 'resnets' else 2 * layer + 1}.{tail}"
    number = int(block.split(".")[1])
    if block.startswith("down"):
        if kind == "downsamplers":
            return f"input_blocks.{(number + 1) * (layers + 1)}.0.op.{tail.removeprefix('conv.')}"
        return f"input_blocks.{1 + number * (layers + 1) + layer}.{int(kind == 'attentions')}.{tail}"
    if kind == "upsamplers":
        return f"output_blocks.{number * (layers + 1) + layers}.{2 if block in attended else 1}.{tail}"
    return f"output_blocks.{number * (layers + 1) + layer}.{int(kind == 'attentions')}.{tail}"


def _vae_key(key: str, ups: int) -> str:
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets", lambda match: f"up.{ups - 1 - int(match[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda match: f"up.{ups - 1 - int(match[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        for new, old in _ATTENTION.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        key = key.replace("mid_block.attentions.0", "mid.attn_1")
    return key
