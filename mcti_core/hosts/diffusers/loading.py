"""Read the parts of a Stable Diffusion model from disk, and fail if weights are missing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ...errors import HostError
from .model_folders import CLASSES, ONLY_STABLE_DIFFUSION, check_component, named_classes

__all__ = [
    "DTYPES",
    "Parts",
    "by_name",
    "check_no_missing_keys",
    "first_line",
    "load_parts",
    "quiet_libraries",
    "refuse_others",
    "refuse_unstored",
]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_REFINER = "is the SDXL refiner, which finishes images of another model; give the SDXL base model"
_UNET = "model.diffusion_model.input_blocks."
_TRANSFORMERS = {
    "joint_blocks.0.context_block.": "Stable Diffusion 3", "distilled_guidance_layer.": "Chroma", "double_stream_modulation_img.": "Flux.2",
    "txt_in.individual_token_refiner.": "HunyuanVideo or HunyuanImage", "double_blocks.0.img_attn.": "Flux", "cap_pad_token": "Z-Image",
    "cap_embedder.": "Lumina 2", "txt_norm.": "Qwen-Image", "t_block.": "PixArt", "caption_projection.0.linear.": "HiDream",
    "head.modulation": "Wan",
}  # fmt: skip
"""Begin of a tensor's name in a single file, with or without the denoiser's prefix -> family; the first that fits."""


@dataclass(frozen=True)
class Parts:
    """The parts of a Stable Diffusion model."""

    text: Mapping[str, tuple[Any, Any]]
    """Text tower and tokenizer by the encoder's name, in the order of the denoiser's context."""
    unet: Any
    vae: Any
    scheduler: Any

    @property
    def xl(self) -> bool:
        return len(self.text) == 2

    @property
    def modules(self) -> list[nn.Module]:
        return [*(tower for tower, _ in self.text.values()), self.unet, self.vae]


def load_parts(path: Path, config: str | Path | None, dtype: torch.dtype) -> Parts:
    try:
        parts = _load_folder(path, dtype) if path.is_dir() else _load_single_file(path, config, dtype)
        if any(weight.is_meta for module in parts.modules for weight in module.parameters()):
            raise ValueError("it lacks some of its weights")
        refuse_others(path, parts)
        for tower, tokenizer in parts.text.values():
            tower.to(dtype=dtype)  # the others are already loaded in it
            tokenizer.encode("a")  # an inconsistent tokenizer fails at the first prompt
        if parts.xl and dtype == torch.float16 and parts.vae.config.get("force_upcast"):
            parts.vae.float()
        return parts
    except HostError:
        raise
    except Exception as error:  # libraries raise any type for an unusable file
        needs_config = path.is_file() and config is None
        hint = "; without network access, give a diffusers folder of its family as config" if needs_config else ""
        message = f"{path} cannot be loaded as a Stable Diffusion 1.x, 2.x or XL model: {first_line(error)}{hint}"
        raise HostError(message) from error


def _load_folder(path: Path, dtype: torch.dtype) -> Parts:
    """The parts of a diffusers folder, without a pipeline, which would load more than needed."""
    parts = _parts_of(path)
    from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    autoencoder = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}[parts["vae"]]
    options = {"local_files_only": True, "output_loading_info": True}

    def text(tower: Any, suffix: str = "") -> tuple[Any, Any]:
        _need_tokenizer(path, f"tokenizer{suffix}")
        refuse_unstored(tower, path / f"text_encoder{suffix}")
        return (
            check_no_missing_keys(tower.from_pretrained(path, subfolder=f"text_encoder{suffix}", **options)),
            CLIPTokenizer.from_pretrained(path, subfolder=f"tokenizer{suffix}", local_files_only=True),
        )

    return Parts(
        by_name(text(CLIPTextModel), text(CLIPTextModelWithProjection, "_2") if "text_encoder_2" in parts else None),
        check_no_missing_keys(
            UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=dtype, **options)
        ),
        check_no_missing_keys(autoencoder.from_pretrained(path, subfolder="vae", torch_dtype=dtype, **options)),
        DDPMScheduler.from_pretrained(path, subfolder="scheduler", local_files_only=True),
    )


def _load_single_file(path: Path, config: str | Path | None, dtype: torch.dtype) -> Parts:
    from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    options: dict[str, Any] = {"torch_dtype": dtype, "feature_extractor": None}  # not needed, and not in the file
    xl = _is_xl_file(path, config)
    if config is None:
        _refuse_folders_named_like_repositories()
    else:
        for part in ("tokenizer", "tokenizer_2") if xl else ("tokenizer",):
            _need_tokenizer(Path(config), part)
        options |= {"config": str(config), "local_files_only": True}
    if xl:
        pipeline = StableDiffusionXLPipeline.from_single_file(str(path), image_encoder=None, **options)
        text = by_name((pipeline.text_encoder, pipeline.tokenizer), (pipeline.text_encoder_2, pipeline.tokenizer_2))
    else:
        options |= {"safety_checker": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline.from_single_file(str(path), **options)
        text = by_name((pipeline.text_encoder, pipeline.tokenizer))
    return Parts(text, pipeline.unet, pipeline.vae, DDPMScheduler.from_config(pipeline.scheduler.config))


def _refuse_folders_named_like_repositories() -> None:
    """Raise if diffusers would take a single file's settings from a folder here that has its family's repository's name."""
    try:
        from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS as REPOSITORIES

        names = sorted({each["pretrained_model_name_or_path"] for each in REPOSITORIES.values()})
    except (ImportError, AttributeError, LookupError, TypeError) as error:
        raise HostError("this version of diffusers needs a diffusers folder of the file's family as config") from error
    if name := next(filter(os.path.lexists, names), ""):
        raise HostError(
            f"the folder {name} here has the name of a repository, and diffusers would take its settings; give it as config if they "
            "are right, or run this in another folder"
        )


def by_name(first: tuple[Any, Any], second: tuple[Any, Any] | None = None) -> dict[str, tuple[Any, Any]]:
    """Text towers and tokenizers by the names of the encoders: one of 1.x or 2.x, or two of XL."""
    if second is not None:
        return {"clip_l": first, "clip_g": second}
    return {"clip_h" if first[0].config.hidden_size == 1024 else "clip_l": first}


def _parts_of(folder: Path) -> dict[str, str]:
    """The parts that a diffusers folder names, with their classes; raises if anything in it asks for code."""
    parts = named_classes(folder)
    if "text_encoder_2" in parts and "text_encoder" not in parts:
        raise HostError(f"{folder} {_REFINER}")
    if "vae" not in parts:
        raise HostError(f"{folder} has no VAE; give a whole Stable Diffusion folder")
    for part in ("", *CLASSES):  # transformers and peft also read the folder itself
        check_component(folder, part)
    return parts


def _is_xl_file(path: Path, config: str | Path | None) -> bool:
    """Whether a single file is SDXL, by a folder of its family, or else by its own tensor names if it is safetensors."""
    names: list[str] = []
    if path.suffix == ".safetensors":  # names in a pickle are unknown until it is loaded
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    if any(name.startswith("conditioner.embedders.0.model.") for name in names):
        raise HostError(f"{path} {_REFINER}")
    xl, older = (any(name.startswith(prefix) for name in names) for prefix in ("conditioner.", "cond_stage_model."))
    if names and not any(name.startswith(_UNET) for name in names):
        bare = [name.removeprefix("model.diffusion_model.").removeprefix("model.") for name in names]
        fitting = (family for begin, family in _TRANSFORMERS.items() if any(name.startswith(begin) for name in bare))
        raise HostError(f"{path} ({next(fitting, 'unknown family')}) has no UNet; {ONLY_STABLE_DIFFUSION}")
    if config is None:
        return xl
    config_is_xl = "text_encoder_2" in _parts_of(Path(config))
    if (xl and not config_is_xl) or (older and config_is_xl):
        kind = {True: "Stable Diffusion XL", False: "Stable Diffusion 1.x or 2.x"}
        raise HostError(
            f"{path} is {kind[xl]}, its config {config} is of {kind[config_is_xl]}; give a folder of the file's family"
        )
    return config_is_xl


def refuse_others(path: Path | str, parts: Parts) -> None:
    """Raise for similar models with other inputs."""
    unet, vae = parts.unet.config, parts.vae.config
    if unet.in_channels != 4:
        raise HostError(
            f"{path} takes {unet.in_channels} channels where 4 are latents (as models for inpainting, depth or editing do); "
            "give the text-to-image model"
        )
    if unet.addition_embed_type != ("text_time" if parts.xl else None):
        raise HostError(
            f"{path} has the text encoders {', '.join(parts.text)} and {unet.addition_embed_type!r} conditioning; Stable Diffusion 1.x "
            "and 2.x have one and None, XL two and 'text_time'; for a .ckpt of SDXL, give a diffusers folder of SDXL as config"
        )
    if vae.get("latents_mean") is not None:
        raise HostError(f"{path} shifts its latents by channel, as Playground 2.5 does; give a Stable Diffusion model")


def refuse_unstored(tower: Any, folder: Path) -> None:
    """Count the numbers that a folder's settings ask for, since transformers allocates all of them, stored or not.

    Args:
        tower: a model class of transformers.

    Raises:
        HostError: the settings ask for more numbers than the weights have bytes.
    """
    config = tower.config_class.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        num_required = sum(weight.numel() for weight in tower(config).parameters())
    num_bytes = sum(file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in folder.glob(kind))
    if num_required > num_bytes:
        raise HostError(
            f"{folder} cannot be loaded: it lacks weights (it asks for {num_required:,} numbers, and its files have {num_bytes:,} bytes); "
            "copy the folder again"
        )


def check_no_missing_keys(loaded: tuple[Any, Mapping[str, Any]], prefixes: tuple[str, ...] = ("",)) -> Any:
    """The model of (model, loading info); raises if a weight with one of these prefixes is missing in the file."""
    model, info = loaded
    missing = sorted(name for name in info["missing_keys"] if name.startswith(prefixes))
    if missing:
        raise ValueError(f"it lacks {len(missing)} of its weights, such as {missing[0]}")
    return model


def _need_tokenizer(folder: Path, part: str) -> None:
    """Raise for missing files, for which transformers would make a tokenizer without words."""
    if not any((folder / part / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise HostError(f"{folder} is not a whole diffusers folder: it contains no {part}/vocab.json")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def quiet_libraries() -> None:
    """Silence the loading messages of model libraries, which command-line users do not need."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
