"""Compute the device memory of a training step for the families that ComfyUI can load, at their real sizes. Nothing is measured.

Usage: python -m benchmarks.families ~/ComfyUI [--families flux z-image] [--dtypes bf16 fp8] [--output-json FILE]     (with ComfyUI's Python)

ComfyUI's own classes are built with shapes but no data, from the configurations that it detects in the published checkpoints. A step encodes
one prompt with a learned vector in every text encoder, denoises one image, and goes back to the vectors; each block is checkpointed. The bytes
of all live storages are added up at every operation (``memory_tracker.py``):

    step = peak - weights,   card = 1.1 x peak + 0.5 GB,   offloaded = 1.1 x (step + largest block or table) + 0.5 GB

``card`` is with all weights of denoiser and text encoders on the device; ``offloaded`` is the least that is needed if ComfyUI keeps the weights in
main memory and loads them block by block.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from mcti_core.hosts.checkpointing import blocks_of, checkpointed

from .memory import CONTEXT, GB, SLACK
from .memory_tracker import MemoryTracker, gpu_workspace
from .report import parsed, show, write_json

__all__ = ["DTYPES", "FAMILIES", "Family", "OutOfPlace", "build", "least_card", "step_bytes", "step_of"]

DTYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
CARDS = (4, 6, 8, 10, 12, 16, 24, 32, 48, 80, 96, 141)
"""Memory of common cards in GB."""
PROMPT = 256
"""Tokens of a prompt in T5 and in language models; CLIP reads 77."""

Encoded = Mapping[str, Sequence[Any]]
"""Text encoder -> context and pooled features."""


@dataclass(frozen=True)
class Family:
    """A model at its real size."""

    name: str
    denoiser: Mapping[str, Any]
    """ComfyUI's ``unet_config``, as its ``detect_unet_config`` finds it."""
    text: str
    """Module and class or factory of ``comfy.text_encoders`` for the text encoders."""
    latents: tuple[int, ...]
    """Shape of the latents of one image of 1024 x 1024 pixels."""
    conditioning: Callable[[Encoded], dict[str, Any]]
    """Text features -> arguments of the denoiser."""
    published: float
    """Number of the denoiser's parameters as its authors write it, in billions."""


def _one(encoded: Encoded) -> dict[str, Any]:
    (features,) = encoded.values()
    context = features[0]
    if context.ndim == 4:  # several layers, side by side
        context = context.movedim(1, 2).flatten(2)
    return {"context": context, "num_tokens": context.shape[1], "guidance": _number(), "attention_mask": None}


def _clip_pair(encoded: Encoded) -> dict[str, Any]:
    clip = torch.cat([encoded[name][0] for name in ("clip_l", "clip_g")], -1)
    context = torch.cat([F.pad(clip, (0, 4096 - clip.shape[-1])), encoded["t5xxl"][0]], 1)
    return {"context": context, "y": torch.cat([encoded[name][1] for name in ("clip_l", "clip_g")], -1)}


def _flux(encoded: Encoded) -> dict[str, Any]:
    return {"context": encoded["t5xxl"][0], "y": encoded["clip_l"][1], "guidance": _number()}


def _number() -> Tensor:
    return torch.ones(1)


def _sd3(depth: int, patches: int, **others: Any) -> dict[str, Any]:
    return {
        "in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": depth, "input_size": None, "adm_in_channels": 2048,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 64 * depth}},
        "num_patches": patches**2, "pos_embed_max_size": patches, "pos_embed_scaling_factor": None, "x_block_self_attn_layers": [], **others,
    }  # fmt: skip


_FLUX = {
    "image_model": "flux", "axes_dim": [16, 56, 56], "num_heads": 24, "mlp_ratio": 4.0, "theta": 10000, "out_channels": 16, "qkv_bias": True,
    "txt_ids_dims": [], "in_channels": 16, "hidden_size": 3072, "context_in_dim": 4096, "patch_size": 2, "vec_in_dim": 768, "depth": 19,
    "depth_single_blocks": 38, "guidance_embed": True, "yak_mlp": False, "txt_norm": False,
}  # fmt: skip
_CHROMA = {key: value for key, value in _FLUX.items() if key not in ("guidance_embed", "yak_mlp", "txt_norm")} | {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5,
    "vec_in_dim": None,
}  # fmt: skip


def _flux2(hidden: int, context: int, depth: int, single: int, guidance: bool) -> dict[str, Any]:
    return _FLUX | {
        "image_model": "flux2", "axes_dim": [32, 32, 32, 32], "num_heads": hidden // 128, "mlp_ratio": 3.0, "theta": 2000, "out_channels": 128,
        "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False, "default_ref_method": "index",
        "ref_index_scale": 10.0, "txt_ids_dims": [3], "in_channels": 128, "hidden_size": hidden, "context_in_dim": context, "patch_size": 1,
        "vec_in_dim": None, "depth": depth, "depth_single_blocks": single, "guidance_embed": guidance,
    }  # fmt: skip


_PIXART = {
    "num_heads": 16, "patch_size": 2, "hidden_size": 1152, "in_channels": 4, "depth": 28, "model_max_length": 300,
    "image_model": "pixart_sigma", "micro_condition": False,
}  # fmt: skip
_LUMINA2 = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 2304, "cap_feat_dim": 2304, "n_layers": 26, "qk_norm": True,
    "n_heads": 24, "n_kv_heads": 8, "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512], "rope_theta": 10000.0, "ffn_dim_multiplier": 4.0,
}  # fmt: skip
_Z_IMAGE = _LUMINA2 | {
    "dim": 3840, "cap_feat_dim": 2560, "n_layers": 30, "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8.0 / 3.0, "z_image_modulation": True, "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}  # fmt: skip
_QWEN = {"image_model": "qwen_image", "in_channels": 64, "num_layers": 60}
_MEDIUM = {"qk_norm": "rms", "x_block_self_attn_layers": list(range(13))}

FAMILIES: Mapping[str, Family] = {
    "pixart": Family("PixArt-Sigma", _PIXART, "pixart_t5 PixArtT5XXL", (1, 4, 128, 128), _one, 0.6),
    "sd3.5-medium": Family("SD 3.5 Medium", _sd3(24, 384, **_MEDIUM), "sd3_clip SD3ClipModel", (1, 16, 128, 128), _clip_pair, 2.5),
    "lumina2": Family("Lumina 2", _LUMINA2, "lumina2 te", (1, 16, 128, 128), _one, 2.6),
    "flux2-klein-4b": Family("Flux.2 Klein 4B", _flux2(3072, 7680, 5, 20, False), "flux klein_te", (1, 128, 64, 64), _one, 4),
    "z-image": Family("Z-Image", _Z_IMAGE, "z_image te", (1, 16, 128, 128), _one, 6),
    "sd3.5-large": Family("SD 3.5 Large", _sd3(38, 192, qk_norm="rms"), "sd3_clip SD3ClipModel", (1, 16, 128, 128), _clip_pair, 8.1),
    "chroma": Family("Chroma", _CHROMA, "pixart_t5 pixart_te", (1, 16, 128, 128), _one, 8.9),
    "flux2-klein-9b": Family("Flux.2 Klein 9B", _flux2(4096, 12288, 8, 24, False), "flux klein_te qwen3_8b", (1, 128, 64, 64), _one, 9),
    "flux": Family("Flux.1 dev", _FLUX, "flux FluxClipModel", (1, 16, 128, 128), _flux, 12),
    "qwen-image": Family("Qwen-Image", _QWEN, "qwen_image te", (1, 16, 1, 128, 128), _one, 20),
    "flux2-dev": Family("Flux.2 dev", _flux2(6144, 15360, 8, 48, True), "flux flux2_te", (1, 128, 64, 64), _one, 32),
}  # fmt: skip


class OutOfPlace(TorchFunctionMode):
    """ComfyUI's blocks write into tensors that autograd saved; with tensors without data, new ones serve as well."""

    _others: ClassVar = {Tensor.add_: torch.add, Tensor.mul_: torch.mul}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = {key: value for key, value in (kwargs or {}).items() if key != "out"}
        return self._others.get(func, func)(*args, **options)


def step_bytes(
    modules: Sequence[nn.Module], step: Callable[[], object], *, checkpointing: bool = True
) -> tuple[int, int]:
    """Bytes of the weights, and peak bytes of a step including them."""
    tracker = MemoryTracker(gpu_workspace)
    tracker.hold(weight for module in modules for weight in [*module.parameters(), *module.buffers()])
    weights = tracker.now
    blocks = [block for module in modules for block in blocks_of(module)] if checkpointing else []
    with checkpointed(blocks), OutOfPlace(), tracker:
        step()
    return weights, tracker.peak


def least_card(needed: float) -> int | None:
    """The smallest of ``CARDS`` with this many bytes; None if there is none."""
    return next((card for card in CARDS if needed <= card * GB), None)


def build(family: Family, dtype: torch.dtype) -> tuple[nn.Module, dict[str, nn.Module]]:
    """ComfyUI's denoiser, and its text encoders by name, without data."""
    from comfy.model_detection import model_config_from_unet_config

    config = model_config_from_unet_config(dict(family.denoiser), {})
    config.set_inference_dtype(dtype, torch.bfloat16)
    denoiser = config.get_model({}, "", device="meta").diffusion_model
    module, factory, *model_type = family.text.split()
    made = getattr(import_module(f"comfy.text_encoders.{module}"), factory)
    made = made if isinstance(made, type) else made(**({"model_type": model_type[0]} if model_type else {}))
    text = made(device="meta", dtype=dtype)
    encoders = {name: child for name, child in text.named_children() if hasattr(child, "process_tokens")}
    for part in (denoiser, text):
        part.eval().requires_grad_(False)
    return denoiser, encoders


def step_of(family: Family, denoiser: nn.Module, encoders: Mapping[str, Any]) -> Callable[[], object]:
    """Text encoders, denoiser, and back to one learned vector per encoder."""
    widths = {name: encoder.transformer.get_input_embeddings().weight.shape[1] for name, encoder in encoders.items()}

    def step() -> object:
        vectors = {name: torch.ones(1, width, requires_grad=True) for name, width in widths.items()}
        rows = {name: [1000] * ((77 if name.startswith("clip_") else PROMPT) - 1) for name in encoders}
        encoded = {name: encoder([[*rows[name], vectors[name]]]) for name, encoder in encoders.items()}
        given = {
            name: value.bfloat16() if isinstance(value, Tensor) else value
            for name, value in family.conditioning(encoded).items()
        }
        latents = torch.ones(family.latents, dtype=torch.bfloat16)
        denoised = denoiser(latents, _number(), **given)
        return torch.autograd.grad(denoised.float().square().mean(), list(vectors.values()))

    return step


def row(family: Family, dtype: str) -> dict[str, Any]:
    denoiser, encoders = build(family, DTYPES[dtype])
    parts = [denoiser, *encoders.values()]
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in parts:
            part.to_empty(device="cpu")  # for which attention is fused, as on a GPU; building needs numbers
        weights, peak = step_bytes(parts, step_of(family, denoiser, encoders))
    largest = max(_bytes(each) for part in parts for each in (*blocks_of(part), *_leaves(part)))
    all_on, offloaded = (SLACK * amount + CONTEXT for amount in (peak, peak - weights + largest))
    count = {
        name: sum(weight.numel() for part in some for weight in part.parameters()) / 1e9
        for name, some in (("denoiser", parts[:1]), ("text", parts[1:]))
    }
    return {
        "family": family.name, "text encoders": ", ".join(encoders), "denoiser": round(count["denoiser"], 2), "text": round(count["text"], 2),
        "dtype": dtype, "weights": round(weights / GB, 1), "step": round((peak - weights) / GB, 1), "card": round(all_on / GB, 1),
        "smallest card": least_card(all_on), "offloaded": round(offloaded / GB, 1), "smallest card, offloaded": least_card(offloaded),
    }  # fmt: skip


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    return (each for each in module.modules() if not any(each.children()))


def _bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", help="ComfyUI's folder")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    given = parsed(parser, arguments)
    sys.path.insert(0, given.comfyui)
    import comfy.cli_args

    comfy.cli_args.args.cpu = comfy.cli_args.args.use_pytorch_cross_attention = True
    import comfy.model_management

    with ExitStack() as restored:
        restored.callback(setattr, comfy.model_management, "in_training", False)
        comfy.model_management.in_training = True  # no fused kernels that write in place
        rows = [row(FAMILIES[name], dtype) for name in given.families for dtype in given.dtypes]
    show(
        "Training step at 1024 px, one image, one vector: parameters in billions, memory in GB, computed, not measured",
        rows,
    )
    write_json(given.output_json, {"how": "computed from shapes, not measured", "rows": rows})


if __name__ == "__main__":
    main()
