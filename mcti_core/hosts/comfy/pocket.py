"""The pocket checkpoint as genuine MODEL, CLIP and VAE objects of ComfyUI, so that stock nodes work with them.

ComfyUI's loaders support only the sizes of published models, so this module builds the same classes with other sizes.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from comfy.supported_models_base import BASE, ClipTarget
from safetensors.torch import load_file
from torch import Tensor

from .clip_space import ClipFile
from .taesd import widen_to_taesd

__all__ = ["PocketParts", "load_pocket_parts"]


@dataclass(frozen=True)
class PocketParts:
    """The outputs of ComfyUI's own loader nodes, and a CLIP space."""

    model: Any
    clip: Any
    vae: Any
    clip_file: ClipFile


def load_pocket_parts(folder: Path, embeddings: Any = None) -> PocketParts:
    """Read the pocket checkpoint's diffusers folder.

    Args:
        folder: with ``text_encoder``, ``tokenizer``, ``unet``, ``vae`` and ``clip``.
        embeddings: folders to search for ``embedding:<name>`` in prompts.
    """
    autoencoder = widen_to_taesd(_weights(folder / "vae" / "diffusion_pytorch_model.safetensors"))
    vae = comfy.sd.VAE(sd=autoencoder, dtype=torch.float32)
    return PocketParts(_model(folder / "unet"), _clip(folder, embeddings), vae, _clip_file(folder / "clip"))


def _model(folder: Path, disable_dynamic: bool = False) -> Any:
    """The diffusion model, with a plain patcher even under dynamic VRAM, as ComfyUI requests by ``disable_dynamic``."""
    config = _config(folder)
    depth = [1] * (len(config["block_out_channels"]) * config["layers_per_block"])
    unet = {  # ComfyUI's names for the same UNet
        "image_size": 32, "in_channels": config["in_channels"], "out_channels": config["out_channels"],
        "model_channels": config["block_out_channels"][0],
        "channel_mult": [width // config["block_out_channels"][0] for width in config["block_out_channels"]],
        "num_res_blocks": depth, "transformer_depth": depth, "transformer_depth_output": depth * 2,
        "transformer_depth_middle": 1, "context_dim": config["cross_attention_dim"], "use_spatial_transformer": True,
        "use_linear_in_transformer": False, "legacy": False, "use_temporal_attention": False, "adm_in_channels": None,
        "dtype": torch.float32,
    }  # fmt: skip

    class Pocket(BASE):
        # ComfyUI's base class would otherwise overwrite it
        unet_extra_config = {"num_heads": config["attention_head_dim"], "num_head_channels": -1}  # noqa: RUF012
        latent_format = comfy.latent_formats.SD15

    model = comfy.model_base.BaseModel(Pocket(unet))
    names = comfy.utils.unet_to_diffusers(unet)
    weights = _weights(folder / "diffusion_pytorch_model.safetensors")
    model.diffusion_model.load_state_dict({names[key]: weight for key, weight in weights.items()}, strict=True)
    device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
    patcher.cached_patcher_init = (_model, (folder,))  # for nodes that need their own copy, such as Train LoRA
    return patcher


def _clip(folder: Path, embeddings: Any) -> Any:
    config = _config(folder / "text_encoder")
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}

    class TextModel(SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None):
            super().__init__(
                device=device, dtype=dtype, textmodel_json_config=dict(config), special_tokens=special,
                return_projected_pooled=False, model_options=model_options or {},
            )  # fmt: skip
            # ComfyUI makes a table of 49,408 rows for any config
            rows = config["vocab_size"], config["hidden_size"]
            self.transformer.set_input_embeddings(self.operations.Embedding(*rows, dtype=dtype, device=device))
            self.freeze()

    class Model(SD1ClipModel):
        title, image_size, generic_word = "MC-TI pocket checkpoint", 64, "glyph"

    tokenizer = partial(SDTokenizer, str(folder / "tokenizer"), embedding_size=config["hidden_size"])
    clip = comfy.sd.CLIP(
        ClipTarget(SD1Tokenizer, Model),
        embedding_directory=embeddings,
        tokenizer_data={"clip_l_tokenizer_class": tokenizer},
        model_options={"clip_l_class": TextModel, "dtype": torch.float32},
    )
    weights = _weights(folder / "text_encoder" / "model.safetensors")
    named = {f"text_model.{name.removeprefix('text_model.')}": weight for name, weight in weights.items()}
    # ComfyUI's model has a projection that is not used here and is created uninitialised
    named["text_projection.weight"] = torch.eye(config["hidden_size"])
    clip.load_sd(named)
    return clip


def _clip_file(folder: Path) -> ClipFile:
    config, weights = _config(folder), _weights(folder / "model.safetensors")
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    vision = {**config["vision_config"], "projection_dim": config["projection_dim"]}
    vision |= {name: preprocessor[name] for name in ("image_mean", "image_std") if name in preprocessor}
    with tempfile.TemporaryDirectory() as temporary:  # ComfyUI reads a tower's shape from a file
        path = Path(temporary) / "config.json"
        path.write_text(json.dumps(vision), encoding="utf-8")
        tower = comfy.clip_vision.ClipVisionModel(str(path))
    tower.load_sd({name: w for name, w in weights.items() if name.startswith(("vision_model.", "visual_projection."))})
    return ClipFile(tower, weights["text_projection.weight"], {}, "MC-TI pocket checkpoint")


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _weights(path: Path) -> dict[str, Tensor]:
    return {name: weight.float() for name, weight in load_file(path).items()}
