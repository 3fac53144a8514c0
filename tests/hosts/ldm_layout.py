"""A diffusers model's weights under the names of the original single-file checkpoints (Stable Diffusion 1.x)."""

from __future__ import annotations

import re

from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def ldm_checkpoint(text: dict[str, Tensor], unet: dict[str, Tensor], vae: dict[str, Tensor], layers: int):
    """State dicts of text tower, UNet (with ``layers`` a block) and AutoencoderKL -> one of the original layout."""
    attended = {match[1] for match in map(re.compile(r"(up_blocks\.\d+)\.attentions").match, unet) if match}
    ups = 1 + max(int(match[1]) for match in map(re.compile(r"decoder\.up_blocks\.(\d+)").match, vae) if match)
    prefix = "cond_stage_model.transformer.text_model."
    content = {prefix + key.removeprefix("text_model."): v for key, v in text.items()}
    content |= {f"model.diffusion_model.{_unet_key(key, layers, attended)}": v for key, v in unet.items()}
    for key, value in vae.items():
        is_linear = "mid_block.attentions" in key and key.endswith("weight") and value.ndim == 2
        content[f"first_stage_model.{_vae_key(key, ups)}"] = value[:, :, None, None] if is_linear else value
    return {key: value.contiguous().clone() for key, value in content.items()}


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
