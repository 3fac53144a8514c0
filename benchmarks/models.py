"""Models for measurements: the pocket checkpoint, and Stable Diffusion's layouts with random weights.

The duration of a step does not depend on the weights, so nothing needs to be downloaded. A model is written to a folder, from
which the plain recipe and this library load it in their own ways.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mcti_core.data.dataset import FewShotDataset
from mcti_core.hosts.base import Host
from mcti_core.hosts.diffusers.host import load_host
from mcti_core.pocket import POCKET_FOLDER

from .timing import flops_of

__all__ = [
    "MODELS",
    "VIT_L",
    "VIT_SMALL",
    "VOCABULARY",
    "Layout",
    "clip_model",
    "host_of",
    "model_folder",
    "random_autoencoder",
    "random_examples",
    "random_unet",
    "unet_flops",
    "write_whole_tokenizer",
]

VOCABULARY = 49_408
"""Number of rows of the token table in every CLIP of Stable Diffusion."""
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
VIT_L = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 224,
    "patch_size": 14,
}  # fmt: skip
VIT_SMALL = {**VIT_L, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
"""A small vision tower: it processes each example once before training, so its size hardly matters."""


@dataclass(frozen=True)
class Layout:
    """Layout of a synthetic model."""

    size: int
    """Side of its images in pixels."""
    channels: tuple[int, ...]
    """Channels of the UNet's levels."""
    blocks: int
    """Residual blocks per level."""
    autoencoder: str
    """``"sd"``, Stable Diffusion's autoencoder, or ``"taesd"``, a distilled one that costs about a fiftieth."""
    vision: dict[str, int]
    heads: int = 8
    """Number of heads per attention layer; diffusers calls it attention_head_dim in SD 1.5's configuration."""
    xl: bool = False


MODELS = {
    "pocket": None,
    "sd15-small": Layout(128, (64, 128, 128), 1, "taesd", VIT_SMALL, heads=2),
    "sd15-small-sdvae": Layout(128, (64, 128, 128), 1, "sd", VIT_SMALL, heads=2),
    "sd15": Layout(512, (320, 640, 1280, 1280), 2, "sd", VIT_L),
    "sdxl": Layout(1024, (320, 640, 1280), 2, "sd", VIT_L, xl=True),
}
"""``sd15-small``: the full CLIP-L text tower with its table, and a UNet like SD 1.5's with few channels, for a CPU."""


def model_folder(name: str, folder: Path, device: str = "cpu", *, vision: dict[str, int] | None = None) -> Path:
    """The diffusers folder of one of ``MODELS``, written into ``folder`` unless it exists; its CLIP model is in ``clip``.

    Args:
        device: the device on which random weights are drawn.
        vision: a vision tower that replaces the layout's.
    """
    layout = MODELS[name]
    if layout is None:
        return POCKET_FOLDER
    path = folder / name
    if not (path / "clip" / "config.json").is_file():
        torch.manual_seed(0)
        with torch.device(device):
            _write(layout, path, vision or layout.vision)
    return path


def host_of(folder: Path, device: str = "cpu", dtype: str = "fp32") -> Host:
    """The library's host for a model of ``model_folder``."""
    return load_host(folder, folder / "clip", device=device, dtype=dtype)


def random_examples(classes: int, shots: int, size: int, seed: int = 0) -> FewShotDataset:
    """``classes`` times ``shots`` random images (3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    return FewShotDataset.from_images(
        {f"thing {index}": torch.rand(shots, 3, size, size, generator=generator) for index in range(classes)}
    )


def unet_flops(name: str) -> dict[str, float]:
    """TFLOP of one sample through a layout's UNet, counted on a model that has shapes but no data.

    Returns the count of forward, and of forward with a backward pass that ends at the text: frozen weights have no gradients.
    Fused attention recomputes its scores in backward, which is not counted here; with it, SD 1.5's 1.67 become 1.73.
    """
    layout = MODELS[name]
    if layout is None or layout.xl:
        raise ValueError(f"{name} is not a synthetic model of SD 1.x")
    with torch.device("meta"):
        unet = random_unet(layout).requires_grad_(False)
        latent = torch.empty(1, 4, layout.size // 8, layout.size // 8)
        step, text = torch.empty(1), torch.empty(1, 77, 768, requires_grad=True)

    def forward() -> torch.Tensor:
        return unet(latent, step, encoder_hidden_states=text).sample

    whole = flops_of(lambda: forward().sum().backward()) / 1e12
    with torch.no_grad():
        return {"forward": flops_of(forward) / 1e12, "forward and backward": whole}


def _write(layout: Layout, path: Path, vision: dict[str, int]) -> None:
    from diffusers import DDPMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    write_whole_tokenizer(path / "tokenizer")
    ids = {"vocab_size": VOCABULARY, "bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1}
    ids["pad_token_id"] = ids["eos_token_id"]
    parts = {"tokenizer": "CLIPTokenizer", "text_encoder": "CLIPTextModel", "scheduler": "DDPMScheduler"}
    CLIPTextModel(CLIPTextConfig(**CLIP_L, **ids, projection_dim=768)).half().save_pretrained(path / "text_encoder")
    if layout.xl:
        second = CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G, **ids, projection_dim=1280, hidden_act="gelu"))
        second.half().save_pretrained(path / "text_encoder_2")
        write_whole_tokenizer(path / "tokenizer_2")
        parts |= {"tokenizer_2": "CLIPTokenizer", "text_encoder_2": "CLIPTextModelWithProjection"}
    for name, module in (("unet", random_unet(layout)), ("vae", random_autoencoder(layout))):
        module.half().save_pretrained(path / name)
        parts[name] = type(module).__name__
    DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
    ).save_pretrained(path / "scheduler")
    index = {name: ["transformers" if name[0] == "t" else "diffusers", kind] for name, kind in parts.items()}
    pipeline = "StableDiffusionXLPipeline" if layout.xl else "StableDiffusionPipeline"
    (path / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **index}, indent=2), encoding="utf-8")
    clip_model(vision).half().save_pretrained(path / "clip")


def random_unet(layout: Layout) -> Any:
    from diffusers import UNet2DConditionModel

    common = {
        "sample_size": layout.size // 8, "block_out_channels": layout.channels, "layers_per_block": layout.blocks,
    }  # fmt: skip
    if layout.xl:
        return UNet2DConditionModel(
            **common, cross_attention_dim=2048, attention_head_dim=(5, 10, 20), use_linear_projection=True,
            transformer_layers_per_block=(1, 2, 10), addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
    inner = len(layout.channels) - 1
    return UNet2DConditionModel(
        **common, cross_attention_dim=768, attention_head_dim=layout.heads,
        down_block_types=("CrossAttnDownBlock2D",) * inner + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * inner,
    )  # fmt: skip


def random_autoencoder(layout: Layout) -> Any:
    from diffusers import AutoencoderKL, AutoencoderTiny

    scale = 0.13025 if layout.xl else 0.18215
    if layout.autoencoder == "taesd":
        return AutoencoderTiny(scaling_factor=scale)
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=layout.size,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=scale,
    )  # fmt: skip


def clip_model(vision: Mapping[str, int]) -> Any:
    """A ``CLIPModel`` for CLIP-L with a tiny text tower, since only the projection of its text side is used."""
    from transformers import CLIPConfig, CLIPModel

    text = {**CLIP_L, "num_hidden_layers": 1, "vocab_size": 8, "bos_token_id": 6, "eos_token_id": 7, "pad_token_id": 7}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))


def write_whole_tokenizer(folder: Path) -> None:
    """The pocket checkpoint's tokenizer, with its vocabulary padded to CLIP's length by pieces that no text contains."""
    from mcti_core.pocket.recipe.vocabulary import write_tokenizer

    write_tokenizer(folder, [])
    file = folder / "vocab.json"
    *pieces, start, end = json.loads(file.read_text(encoding="utf-8"))
    unused = [f"\u0000{index}" for index in range(VOCABULARY - 2 - len(pieces))]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, *unused, start, end])}
    file.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
