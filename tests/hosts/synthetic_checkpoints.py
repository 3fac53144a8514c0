"""Checkpoints with random weights in the original single-file layouts, which ComfyUI's stock loader nodes take.

The parts keep the layouts, key names and widths by which the loaders tell the models apart; what the loaders leave free
is small, except that ``full=True`` gives the genuine UNet. Text towers cannot be smaller than the real ones: the loader
nodes build those whatever the file holds.

A file is far smaller than its weights, because a tensor's rows are overlapping windows of a short random buffer, and
torch.save stores what tensors share once. So files must end in ``.ckpt`` or ``.bin``: safetensors shares nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["write_clip", "write_sd3", "write_sd15", "write_sd20", "write_sdxl"]

VOCABULARY = 49408
TOKENS = 77
CHANNELS = 320
BUFFER = 65536  # about as many random numbers as a tensor has of its own
SPARE = 8192  # random numbers more than the largest tensor needs, so that equal shapes rarely get equal windows


class UNetShape(NamedTuple):
    """What distinguishes the UNets; a number of ``multiples``, ``depth`` and ``depth_out`` is a level's."""

    context: int
    linear: bool  # projections around the transformers are linear layers and not 1 x 1 convolutions
    multiples: tuple[int, ...]
    blocks: int
    depth: tuple[int, ...]
    depth_out: tuple[int, ...]
    middle: int = 1
    classes: int | None = None


SD15_MINI = UNetShape(768, False, (1,), 1, (1,), (1,))
SD15_FULL = UNetShape(768, False, (1, 2, 4, 4), 2, (1, 1, 1, 0), (1, 1, 1, 0))
# v-prediction is told from a weight in the last of twelve output blocks, so the levels must be there, however narrow
SD20_MINI = UNetShape(1024, True, (1, 1, 1, 1), 2, (1, 0, 0, 0), (1, 0, 0, 0))
SD20_FULL = UNetShape(1024, True, (1, 2, 4, 4), 2, (1, 1, 1, 0), (1, 1, 1, 0))
# SDXL is told by the depths on the way in
SDXL_MINI = UNetShape(2048, True, (1, 1, 1), 2, (0, 2, 10), (0, 1, 1), 1, 2816)
SDXL_FULL = UNetShape(2048, True, (1, 2, 4), 2, (0, 2, 10), (0, 2, 10), 10, 2816)


class Tower(NamedTuple):
    """A transformer of CLIP's."""

    width: int
    layers: int
    inner: int


class ClipShape(NamedTuple):
    text: Tower
    vision: Tower
    projection: int


CLIPS = {
    "clip_l": ClipShape(Tower(768, 12, 3072), Tower(1024, 24, 4096), 768),
    "clip_h": ClipShape(Tower(1024, 24, 4096), Tower(1280, 32, 5120), 1024),
    "clip_g": ClipShape(Tower(1280, 32, 5120), Tower(1664, 48, 8192), 1280),
}


def write_sd15(path: Path, full: bool = False, seed: int = 0) -> Path:
    """Stable Diffusion 1.5. Like the real file it contains no ``text_projection``."""
    weights = Weights()
    weights.unet(SD15_FULL if full else SD15_MINI)
    weights.text("cond_stage_model.transformer.text_model.", CLIPS["clip_l"].text)
    weights.tiny_vae("first_stage_model.", 4, 0.18215)
    return weights.save(path, seed)


def write_sd20(path: Path, full: bool = False, v_prediction: bool = True, seed: int = 0) -> Path:
    """Stable Diffusion 2.x: v-prediction (the 768 px models) or not (the "base" models)."""
    weights, shape = Weights(), SD20_FULL if full else SD20_MINI
    weights.unet(shape)
    if v_prediction:  # ComfyUI: its standard deviation is above 0.09
        name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
        weights.random(name, (CHANNELS,), 0.2)
    weights.open_clip_text("cond_stage_model.model.", CLIPS["clip_h"])
    weights.tiny_vae("first_stage_model.", 4, 0.18215)
    return weights.save(path, seed)


def write_sdxl(path: Path, full: bool = False, seed: int = 0) -> Path:
    """Stable Diffusion XL base, with both text towers."""
    weights = Weights()
    weights.unet(SDXL_FULL if full else SDXL_MINI)
    weights.text("conditioner.embedders.0.transformer.text_model.", CLIPS["clip_l"].text)
    weights.open_clip_text("conditioner.embedders.1.model.", CLIPS["clip_g"])
    weights.tiny_vae("first_stage_model.", 4, 0.13025)
    return weights.save(path, seed)


def write_sd3(path: Path, depth: int = 2, seed: int = 0) -> Path:
    """Stable Diffusion 3 with CLIP-L and CLIP-G but no T5 (``..._incl_clips``); the real SD3 medium's depth is 24."""
    weights = Weights()
    weights.mmdit("model.diffusion_model.", depth)
    for name in ("clip_l", "clip_g"):
        prefix, width = f"text_encoders.{name}.transformer.", CLIPS[name].text.width
        weights.text(f"{prefix}text_model.", CLIPS[name].text)
        weights.linear(f"{prefix}text_projection", width, width, bias=False)
    weights.tiny_vae("first_stage_model.", 16, 1.5305, 0.0609)
    return weights.save(path, seed)


def write_clip(path: Path, name: str = "clip_l", text: bool = True, seed: int = 0) -> Path:
    """A whole CLIP in transformers' CLIPModel layout: openai's ViT-L/14, or OpenCLIP's ViT-H/14 or ViT-bigG/14.

    Args:
        path: of the file to write.
        name: ``clip_l``, ``clip_h`` or ``clip_g``.
        text: with the text tower. The projections of both sides are there in any case.
        seed: of the random numbers.
    """
    weights, shape = Weights(), CLIPS[name]
    if text:
        weights.text("text_model.", shape.text)
    weights.vision("vision_model.", shape.vision)
    weights.linear("text_projection", shape.projection, shape.text.width, bias=False)
    weights.linear("visual_projection", shape.projection, shape.vision.width, bias=False)
    weights.constant("logit_scale", (), 4.6055)
    return weights.save(path, seed)


class Weights:
    """Collects names, shapes and spreads; the numbers are made when all are known.

    Spreads are such that every layer's output is about as large as its input: nothing overflows, nothing dies away.
    """

    def __init__(self):
        self.spreads: dict[str, tuple[tuple[int, ...], float]] = {}
        self.fixed: dict[str, Tensor] = {}

    def save(self, path: Path, seed: int) -> Path:
        if path.suffix == ".safetensors":
            raise ValueError(f"{path.name}: safetensors would store every weight; take .ckpt or .bin")
        torch.save({"state_dict": {**windows(self.spreads, seed), **self.fixed}}, path)
        return path

    def random(self, name: str, shape: tuple[int, ...], spread: float) -> None:
        self.fixed.pop(name, None)
        self.spreads[name] = shape, spread

    def constant(self, name: str, shape: tuple[int, ...], value: float) -> None:
        self.fixed[name] = torch.tensor(value, dtype=torch.float16).expand(shape)

    def linear(self, name: str, outputs: int, inputs: int, bias: bool | float = True, gain: float = 1.0) -> None:
        self._layer(name, (outputs, inputs), bias, gain)

    def conv(
        self, name: str, outputs: int, inputs: int, size: int = 3, bias: bool | float = True, gain: float = 1.0
    ) -> None:
        self._layer(name, (outputs, inputs, size, size), bias, gain)

    def _layer(self, name: str, shape: tuple[int, ...], bias: bool | float, gain: float) -> None:
        """``bias`` True is a bias of zeros, a number is a bias of that."""
        self.random(f"{name}.weight", shape, gain / sqrt(prod(shape[1:])))
        if bias is not False:
            self.constant(f"{name}.bias", shape[:1], 0.0 if bias is True else bias)

    def norm(self, name: str, width: int) -> None:
        self.constant(f"{name}.weight", (width,), 1.0)
        self.constant(f"{name}.bias", (width,), 0.0)

    # -- UNet ----------------------------------------------------------------------------------------------------------

    def unet(self, shape: UNetShape, prefix: str = "model.diffusion_model.") -> None:
        self.linear(f"{prefix}time_embed.0", 4 * CHANNELS, CHANNELS)
        self.linear(f"{prefix}time_embed.2", 4 * CHANNELS, 4 * CHANNELS)
        if shape.classes is not None:
            self.linear(f"{prefix}label_emb.0.0", 4 * CHANNELS, shape.classes)
            self.linear(f"{prefix}label_emb.0.2", 4 * CHANNELS, 4 * CHANNELS)
        skips = self._unet_inputs(prefix, shape)
        self._resnet(f"{prefix}middle_block.0", skips[-1], skips[-1])
        self._transformer(f"{prefix}middle_block.1", skips[-1], shape.middle, shape)
        self._resnet(f"{prefix}middle_block.2", skips[-1], skips[-1])
        self._unet_outputs(prefix, shape, skips)
        self.norm(f"{prefix}out.0", CHANNELS)
        self.conv(f"{prefix}out.2", 4, CHANNELS)

    def _unet_inputs(self, prefix: str, shape: UNetShape) -> list[int]:
        """Returns the channels of every block's output."""
        self.conv(f"{prefix}input_blocks.0.0", CHANNELS, 4)
        skips = [CHANNELS]
        for level, (multiple, depth) in enumerate(zip(shape.multiples, shape.depth, strict=True)):
            for _ in range(shape.blocks):
                block = f"{prefix}input_blocks.{len(skips)}"
                self._resnet(f"{block}.0", skips[-1], multiple * CHANNELS)
                self._transformer(f"{block}.1", multiple * CHANNELS, depth, shape)
                skips.append(multiple * CHANNELS)
            if level < len(shape.multiples) - 1:
                self.conv(f"{prefix}input_blocks.{len(skips)}.0.op", skips[-1], skips[-1])
                skips.append(skips[-1])
        return skips

    def _unet_outputs(self, prefix: str, shape: UNetShape, skips: Sequence[int]) -> None:
        channels, below = skips[-1], list(skips)
        for level in reversed(range(len(shape.multiples))):
            width, depth = shape.multiples[level] * CHANNELS, shape.depth_out[level]
            for last in [False] * shape.blocks + [True]:
                block = f"{prefix}output_blocks.{len(skips) - len(below)}"
                self._resnet(f"{block}.0", channels + below.pop(), width)
                self._transformer(f"{block}.1", width, depth, shape)
                if last and level > 0:
                    self.conv(f"{block}.{2 if depth else 1}.conv", width, width)
                channels = width

    def _resnet(self, name: str, inputs: int, outputs: int) -> None:
        self.norm(f"{name}.in_layers.0", inputs)
        self.conv(f"{name}.in_layers.2", outputs, inputs)
        self.linear(f"{name}.emb_layers.1", outputs, 4 * CHANNELS)
        self.norm(f"{name}.out_layers.0", outputs)
        self.conv(f"{name}.out_layers.3", outputs, outputs)
        if inputs != outputs:
            self.conv(f"{name}.skip_connection", outputs, inputs, size=1)

    def _transformer(self, name: str, width: int, depth: int, shape: UNetShape) -> None:
        if depth == 0:
            return
        self.norm(f"{name}.norm", width)
        for projection in ("proj_in", "proj_out"):
            if shape.linear:
                self.linear(f"{name}.{projection}", width, width)
            else:
                self.conv(f"{name}.{projection}", width, width, size=1)
        for block in (f"{name}.transformer_blocks.{index}" for index in range(depth)):
            for attention, context in (("attn1", width), ("attn2", shape.context)):
                self.linear(f"{block}.{attention}.to_q", width, width, bias=False)
                self.linear(f"{block}.{attention}.to_k", width, context, bias=False)
                self.linear(f"{block}.{attention}.to_v", width, context, bias=False)
                self.linear(f"{block}.{attention}.to_out.0", width, width)
            self.linear(f"{block}.ff.net.0.proj", 8 * width, width)
            self.linear(f"{block}.ff.net.2", width, 4 * width)
            for index in (1, 2, 3):
                self.norm(f"{block}.norm{index}", width)

    # -- SD3 -----------------------------------------------------------------------------------------------------------

    def mmdit(self, prefix: str, depth: int) -> None:
        """The loader takes both the width (64 each) and the number of blocks from the ``depth``."""
        width = 64 * depth
        self.conv(f"{prefix}x_embedder.proj", width, 16, size=2)
        self.random(f"{prefix}pos_embed", (1, 192 * 192, width), 0.5)
        for name, inputs in (("t_embedder", 256), ("y_embedder", 2048)):
            self.linear(f"{prefix}{name}.mlp.0", width, inputs)
            self.linear(f"{prefix}{name}.mlp.2", width, width)
        self.linear(f"{prefix}context_embedder", width, 4096)
        for index in range(depth):
            for side in ("context_block", "x_block"):
                is_last = side == "context_block" and index == depth - 1
                self._mmdit_block(f"{prefix}joint_blocks.{index}.{side}", width, is_last)
        self.linear(f"{prefix}final_layer.adaLN_modulation.1", 2 * width, width)
        self.linear(f"{prefix}final_layer.linear", 2 * 2 * 16, width)

    def _mmdit_block(self, name: str, width: int, only_attended: bool) -> None:
        """The last block of the context is only looked at and not changed."""
        self.linear(f"{name}.attn.qkv", 3 * width, width)
        self.linear(f"{name}.adaLN_modulation.1", (2 if only_attended else 6) * width, width)
        if not only_attended:
            self.linear(f"{name}.attn.proj", width, width)
            self.linear(f"{name}.mlp.fc1", 4 * width, width)
            self.linear(f"{name}.mlp.fc2", width, 4 * width)

    # -- CLIP, with the spreads that it is initialised with --------------------------------------------------------------

    def text(self, prefix: str, tower: Tower) -> None:
        """As transformers names it."""
        self.random(f"{prefix}embeddings.token_embedding.weight", (VOCABULARY, tower.width), 0.02)
        self.random(f"{prefix}embeddings.position_embedding.weight", (TOKENS, tower.width), 0.01)
        self._layers(prefix, tower)
        self.norm(f"{prefix}final_layer_norm", tower.width)

    def vision(self, prefix: str, tower: Tower) -> None:
        spread = 1 / sqrt(tower.width)
        self.random(f"{prefix}embeddings.class_embedding", (tower.width,), spread)
        self.random(f"{prefix}embeddings.position_embedding.weight", (1 + 16 * 16, tower.width), spread)
        self.conv(f"{prefix}embeddings.patch_embedding", tower.width, 3, size=14, bias=False)
        self.norm(f"{prefix}pre_layrnorm", tower.width)  # transformers' own misspelling
        self._layers(prefix, tower)
        self.norm(f"{prefix}post_layernorm", tower.width)

    def _layers(self, prefix: str, tower: Tower) -> None:
        gain = 1 / sqrt(2 * tower.layers)  # so that the residual sum stays small enough for the tokens to tell in it
        for layer in (f"{prefix}encoder.layers.{index}" for index in range(tower.layers)):
            for name in ("q_proj", "k_proj", "v_proj"):
                self.linear(f"{layer}.self_attn.{name}", tower.width, tower.width)
            self.linear(f"{layer}.self_attn.out_proj", tower.width, tower.width, gain=gain)
            self.linear(f"{layer}.mlp.fc1", tower.inner, tower.width)
            self.linear(f"{layer}.mlp.fc2", tower.width, tower.inner, gain=gain)
            self.norm(f"{layer}.layer_norm1", tower.width)
            self.norm(f"{layer}.layer_norm2", tower.width)

    def open_clip_text(self, prefix: str, shape: ClipShape) -> None:
        """As OpenCLIP names it, with its projection, which is stored the other way round."""
        tower, gain = shape.text, 1 / sqrt(2 * shape.text.layers)
        self.random(f"{prefix}token_embedding.weight", (VOCABULARY, tower.width), 0.02)
        self.random(f"{prefix}positional_embedding", (TOKENS, tower.width), 0.01)
        for layer in (f"{prefix}transformer.resblocks.{index}" for index in range(tower.layers)):
            self.random(f"{layer}.attn.in_proj_weight", (3 * tower.width, tower.width), 1 / sqrt(tower.width))
            self.constant(f"{layer}.attn.in_proj_bias", (3 * tower.width,), 0.0)
            self.linear(f"{layer}.attn.out_proj", tower.width, tower.width, gain=gain)
            self.linear(f"{layer}.mlp.c_fc", tower.inner, tower.width)
            self.linear(f"{layer}.mlp.c_proj", tower.width, tower.inner, gain=gain)
            self.norm(f"{layer}.ln_1", tower.width)
            self.norm(f"{layer}.ln_2", tower.width)
        self.norm(f"{prefix}ln_final", tower.width)
        self.random(f"{prefix}text_projection", (tower.width, shape.projection), 1 / sqrt(tower.width))
        self.constant(f"{prefix}logit_scale", (), 4.6055)

    # -- TAESD, which ComfyUI takes in a checkpoint as it takes the large autoencoder ------------------------------------

    def tiny_vae(self, prefix: str, channels: int, scale: float, shift: float = 0.0) -> None:
        encoder, decoder = f"{prefix}taesd_encoder", f"{prefix}taesd_decoder"
        self.conv(f"{encoder}.0", 64, 3)
        self.conv(f"{decoder}.1", 64, channels)
        for name, places in ((encoder, (2, 6, 10)), (decoder, (7, 12, 17))):
            for place in places:
                self.conv(f"{name}.{place}", 64, 64, bias=False)
        for name, places in (
            (encoder, (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)),
            (decoder, (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)),
        ):
            for place in places:
                for layer, gain in ((0, sqrt(2)), (2, sqrt(2)), (4, 0.5)):
                    self.conv(f"{name}.{place}.conv.{layer}", 64, 64, gain=gain)
        self.conv(f"{encoder}.14", channels, 64, gain=4.0)  # an image varies less over its pixels than noise does
        self.conv(f"{decoder}.19", 3, 64, bias=0.5, gain=0.5)  # images about middle grey, few values cut off
        self.constant(f"{prefix}vae_scale", (), scale)
        self.constant(f"{prefix}vae_shift", (), shift)


def windows(spreads: dict[str, tuple[tuple[int, ...], float]], seed: int) -> dict[str, Tensor]:
    """Random tensors of these shapes and standard deviations, in buffers that those of one deviation share."""
    generator = torch.Generator().manual_seed(seed)
    needed: dict[float, int] = {}
    for shape, spread in spreads.values():
        needed[spread] = max(needed.get(spread, 0), _reach(shape))
    buffers = {
        spread: (torch.randn(count + SPARE, generator=generator) * spread).half() for spread, count in needed.items()
    }
    tensors = {}
    for name, (shape, spread) in spreads.items():
        start = int(torch.randint(len(buffers[spread]) - _reach(shape) + 1, (), generator=generator))
        tensors[name] = buffers[spread].as_strided(shape, _strides(shape), start)
    return tensors


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Rows lie one behind the other in a small tensor; in a larger one each begins within the row before it."""
    first = next((index for index, size in enumerate(shape) if size > 1), 0)  # axes of length 1 have no rows
    inner = [prod(shape[index + 1 :]) for index in range(len(shape))]
    row = min(inner[first], max(1, BUFFER // shape[first])) if shape else 1
    return tuple(row if index <= first else stride for index, stride in enumerate(inner))


def _reach(shape: tuple[int, ...]) -> int:
    """How many numbers of a buffer a tensor of such strides spans."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, _strides(shape), strict=True))
