"""Read the parts of a Stable Diffusion model from disk, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import HostError

__all__ = ["DTYPES", "Parts", "first_line", "load_parts", "quiet_libraries", "whole"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Parts:
    """A Stable Diffusion model in pieces."""

    text_encoder: Any
    tokenizer: Any
    unet: Any
    vae: Any
    scheduler: Any

    @property
    def modules(self) -> list[nn.Module]:
        return [self.text_encoder, self.unet, self.vae]


def load_parts(path: Path, config: str | Path | None, dtype: torch.dtype) -> Parts:
    try:
        parts = _load_folder(path, dtype) if path.is_dir() else _load_single_file(path, config, dtype)
        if any(weight.is_meta for module in parts.modules for weight in module.parameters()):
            raise ValueError("it lacks some of its weights")
        return parts
    except HostError:
        raise
    except Exception as error:  # what the libraries raise for a file that they cannot use is anyone's guess
        alone = path.is_file() and config is None
        hint = "; without network access, give a diffusers folder of its family as config" if alone else ""
        message = f"{path} cannot be loaded as a Stable Diffusion 1.x or 2.x model: {first_line(error)}{hint}"
        raise HostError(message) from error


def _load_folder(path: Path, dtype: torch.dtype) -> Parts:
    """The parts of a diffusers folder, without the pipeline around them, which would load more than is needed."""
    import diffusers
    from transformers import CLIPTextModel, CLIPTokenizer

    index = path / "model_index.json"
    if not index.is_file():
        raise HostError(f"{path} is not a diffusers folder: it holds no model_index.json")
    classes = json.loads(index.read_text(encoding="utf-8"))
    if "text_encoder_2" in classes:
        raise HostError(f"{path} has two text encoders (SDXL); only Stable Diffusion 1.x and 2.x are loaded here")
    _need_tokenizer(path)
    autoencoder = getattr(diffusers, classes["vae"][1])
    told = {"local_files_only": True, "output_loading_info": True}
    return Parts(
        whole(CLIPTextModel.from_pretrained(path, subfolder="text_encoder", **told)),
        CLIPTokenizer.from_pretrained(path, subfolder="tokenizer", local_files_only=True),
        whole(diffusers.UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=dtype, **told)),
        whole(autoencoder.from_pretrained(path, subfolder="vae", torch_dtype=dtype, **told)),
        diffusers.DDPMScheduler.from_pretrained(path, subfolder="scheduler", local_files_only=True),
    )


def _load_single_file(path: Path, config: str | Path | None, dtype: torch.dtype) -> Parts:
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    options: dict[str, Any] = {"torch_dtype": dtype, "requires_safety_checker": False}
    options |= {"safety_checker": None, "feature_extractor": None}  # not needed, and not in the file
    if config is not None:
        _need_tokenizer(Path(config))
        options |= {"config": str(config), "local_files_only": True}
    pipeline = StableDiffusionPipeline.from_single_file(str(path), **options)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    return Parts(pipeline.text_encoder, pipeline.tokenizer, pipeline.unet, pipeline.vae, scheduler)


def whole(loaded: tuple[Any, Mapping[str, Any]], prefixes: tuple[str, ...] = ("",)) -> Any:
    """The model of (model, loading info), if no weight of these prefixes was left at random for want of a stored one."""
    model, info = loaded
    missing = sorted(name for name in info["missing_keys"] if name.startswith(prefixes))
    if missing:
        raise ValueError(f"it lacks {len(missing)} of its weights, such as {missing[0]}")
    return model


def _need_tokenizer(folder: Path) -> None:
    """Where there are no files, transformers makes a tokenizer that knows no words."""
    if not any((folder / "tokenizer" / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise HostError(f"{folder} is not a whole diffusers folder: it holds no tokenizer/vocab.json")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def quiet_libraries() -> None:
    """Model libraries announce what they load; a person at the command line did not ask."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
