"""Models of real size with random weights, in safetensors files, for a machine with a graphics card.

    python -m tests.hosts.real_sizes ~/ComfyUI/models sd15 sdxl clip fp8        (2.1, 6.9, 0.9 and 1.4 GB)

Layouts and numbers are those of ``synthetic_checkpoints``, with the large autoencoder. No two weights share memory, since
ComfyUI maps safetensors files and moves weights from there. ``clip`` is the CLIP space of ``sd15``; ``fp8`` is its UNet, whose
matrices ComfyUI's own format stores in eight bits.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .synthetic_checkpoints import CLIPS, SD15_FULL, SD15_MINI, SDXL_FULL, SDXL_MINI, Weights

__all__ = ["CLIP", "QUANTISED", "main"]

CHECKPOINTS = {"sd15": (SD15_FULL, SD15_MINI), "sdxl": (SDXL_FULL, SDXL_MINI)}
CLIP, QUANTISED = "clip-vit-large-patch14.safetensors", "sd15-fp8.safetensors"
UNET = "model.diffusion_model."
STORED = (".to_q.weight", "attn1.to_k.weight", ".to_v.weight", ".to_out.0.weight", ".ff.net.2.weight")
"""Matrices in eight bits; by the others the host tells the family."""
LARGEST_FP8 = 448.0


class RealWeights(Weights):
    """Distinct random numbers in half precision, which depend on a weight's name, so that two files can hold the same ones."""

    def tensors(self) -> dict[str, Tensor]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        made = {}
        for name, (shape, spread) in self.spreads.items():
            random = torch.Generator(device).manual_seed(zlib.crc32(name.rpartition("text_model.")[2].encode()))
            made[name] = (torch.randn(shape, generator=random, device=device) * spread).half().cpu()
        return made | {name: value.contiguous() for name, value in self.fixed.items()}

    # -- AutoencoderKL ---------------------------------------------------------------------------------------------------

    def large_vae(self, prefix: str, channels: int = 4) -> None:
        wide = (128, 256, 512, 512)
        self.conv(f"{prefix}encoder.conv_in", 128, 3)
        inputs = 128
        for level, width in enumerate(wide):
            inputs = self._level(f"{prefix}encoder.down.{level}", inputs, width, 2, "downsample" if level < 3 else "")
        self._ends(f"{prefix}encoder", 512, 512, 2 * channels)
        self.conv(f"{prefix}decoder.conv_in", 512, channels)
        for level, width in reversed(list(enumerate(wide))):
            inputs = self._level(f"{prefix}decoder.up.{level}", inputs, width, 3, "upsample" if level > 0 else "")
        self._ends(f"{prefix}decoder", 512, 128, 3)
        self.conv(f"{prefix}quant_conv", 2 * channels, 2 * channels, size=1)
        self.conv(f"{prefix}post_quant_conv", channels, channels, size=1)

    def _level(self, name: str, inputs: int, width: int, blocks: int, sampling: str) -> int:
        for index in range(blocks):
            self._block(f"{name}.block.{index}", width if index else inputs, width)
        if sampling:
            self.conv(f"{name}.{sampling}.conv", width, width)
        return width

    def _ends(self, name: str, middle: int, last: int, outputs: int) -> None:
        for index in (1, 2):
            self._block(f"{name}.mid.block_{index}", middle, middle)
        self.norm(f"{name}.mid.attn_1.norm", middle)
        for part in ("q", "k", "v", "proj_out"):
            self.conv(f"{name}.mid.attn_1.{part}", middle, middle, size=1)
        self.norm(f"{name}.norm_out", middle if "encoder" in name else last)
        self.conv(f"{name}.conv_out", outputs, middle if "encoder" in name else last)

    def _block(self, name: str, inputs: int, outputs: int) -> None:
        self.norm(f"{name}.norm1", inputs)
        self.conv(f"{name}.conv1", outputs, inputs)
        self.norm(f"{name}.norm2", outputs)
        self.conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            self.conv(f"{name}.nin_shortcut", outputs, inputs, size=1)


def checkpoint(family: str, small: bool) -> dict[str, Tensor]:
    """SD 1.5 or SDXL in the original layout."""
    weights = RealWeights()
    weights.unet(CHECKPOINTS[family][small])
    if family == "sd15":
        weights.text("cond_stage_model.transformer.text_model.", CLIPS["clip_l"].text)
    else:
        weights.text("conditioner.embedders.0.transformer.text_model.", CLIPS["clip_l"].text)
        weights.open_clip_text("conditioner.embedders.1.model.", CLIPS["clip_g"])
    weights.large_vae("first_stage_model.")
    return weights.tensors()


def clip() -> dict[str, Tensor]:
    """openai's ViT-L/14, whose text tower is that of ``checkpoint("sd15")``."""
    weights, shape = RealWeights(), CLIPS["clip_l"]
    weights.text("text_model.", shape.text)
    weights.vision("vision_model.", shape.vision)
    weights.linear("text_projection", shape.projection, shape.text.width, bias=False)
    weights.linear("visual_projection", shape.projection, shape.vision.width, bias=False)
    weights.constant("logit_scale", (), 4.6055)
    return weights.tensors()


def quantised(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The UNet of a checkpoint, with the matrices ``STORED`` in float8."""
    kept = {name.removeprefix(UNET): weight for name, weight in weights.items() if name.startswith(UNET)}
    for name in [name for name in kept if name.endswith(STORED)]:
        weight, prefix = kept[name].float(), name.removesuffix("weight")
        scale = weight.abs().amax() / LARGEST_FP8
        kept[name] = (weight / scale).to(torch.float8_e4m3fn)
        kept[f"{prefix}weight_scale"] = scale
        kept[f"{prefix}comfy_quant"] = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode())).byte()
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="ComfyUI's folder of models")
    parser.add_argument("what", nargs="+", choices=[*CHECKPOINTS, "clip", "fp8"])
    parser.add_argument("--small", action="store_true", help="UNets of few layers, to try the command itself")
    options = parser.parse_args(arguments)
    for what in options.what:
        began = time.monotonic()
        if what == "clip":
            path, weights = options.models / "clip_vision" / CLIP, clip()
        elif what == "fp8":
            path = options.models / "diffusion_models" / QUANTISED
            weights = quantised(checkpoint("sd15", options.small))
        else:
            path, weights = options.models / "checkpoints" / f"{what}.safetensors", checkpoint(what, options.small)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path)
        print(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB in {time.monotonic() - began:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
