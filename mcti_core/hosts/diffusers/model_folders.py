"""Check the classes that a model folder names, as plain JSON, before a library imports them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import HostError
from ...files.regular import read_limited

__all__ = ["CLASSES", "ONLY_STABLE_DIFFUSION", "check_component", "named_classes", "read_settings"]

_SCHEDULERS = (
    "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSDE", "DPMSolverSinglestep", "EulerAncestralDiscrete",
    "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "TCD", "UniPCMultistep",
)  # fmt: skip
CLASSES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unet": (("diffusers",), ("UNet2DConditionModel",)),
    "vae": (("diffusers",), ("AutoencoderKL", "AutoencoderTiny")),
    "scheduler": (("diffusers",), tuple(f"{name}Scheduler" for name in _SCHEDULERS)),
    "text_encoder": (("transformers",), ("CLIPTextModel",)),
    "text_encoder_2": (("transformers",), ("CLIPTextModelWithProjection",)),
    "tokenizer": (("transformers",), ("CLIPTokenizer", "CLIPTokenizerFast")),
    "tokenizer_2": (("transformers",), ("CLIPTokenizer", "CLIPTokenizerFast")),
    "safety_checker": (("stable_diffusion",), ("StableDiffusionSafetyChecker",)),
    "feature_extractor": (("transformers",), ("CLIPImageProcessor", "CLIPFeatureExtractor")),
    "image_encoder": (("transformers",), ("CLIPVisionModelWithProjection",)),
}
"""Part -> the libraries and classes that ``model_index.json`` may name for it: all parts of the pipelines of Stable Diffusion
1.x, 2.x and XL. Parts with other names are ignored, here and by diffusers."""
ONLY_STABLE_DIFFUSION = "only Stable Diffusion 1.x, 2.x and XL are loaded here; for other families use the nodes in ComfyUI (docs/models.md)"
_FILES = ("config.json", "scheduler_config.json", "tokenizer_config.json", "adapter_config.json")
_MAX_BYTES, _MAX_DEPTH = 2**20, 32
_CODE = (
    "auto_map", "configuration_files", "custom_pipeline", "custom_pipelines", "trust_remote_code", "quantization_config",
)  # fmt: skip
"""Settings that make libraries load code, classes by name, or other settings."""
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
"""Settings for which transformers downloads a kernel if they contain a slash."""
_FILES_WITH_SIZES = ("config.json", "scheduler_config.json")
_MAX_SETTING, _MAX_COUNT, _MAX_LEVELS = 10_000, 1_000_000, 8
"""Limits for a size, such as a width; for words, steps and labels; and for lists that describe a UNet or a VAE level by level."""
_MAX_LAYERS = {"num_hidden_layers": 64}
_MAX_BLOCKS = 16
"""Limit for all other layers and blocks, which multiply: libraries build them one by one before they read weights."""


def named_classes(folder: Path) -> dict[str, str]:
    """Part -> class, for the existing parts that ``model_index.json`` names.

    Raises:
        HostError: not a diffusers folder, one of another family than Stable Diffusion 1.x, 2.x and XL, or it names a class that is not
            in ``CLASSES``.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise HostError(f"{folder} is not a diffusers folder: it contains no model_index.json")
    named = read_settings(index)
    pipeline = named.get("_class_name", "")
    if not isinstance(pipeline, str):
        raise HostError(f"{index} names a pipeline class of its own, which is not run; give a Stable Diffusion folder")
    if not isinstance(named.get("unet"), list) or named["unet"] == [None, None]:
        raise HostError(f"{folder} ({pipeline[:80] or 'no class'}) has no UNet; {ONLY_STABLE_DIFFUSION}")
    parts = {}
    for part, library_and_class in named.items():
        if part not in CLASSES or not isinstance(library_and_class, list) or library_and_class == [None, None]:
            continue
        libraries, classes = CLASSES[part]
        if len(library_and_class) != 2 or library_and_class[0] not in libraries or library_and_class[1] not in classes:
            raise _other_class(index, part, library_and_class, classes)
        parts[part] = library_and_class[1]
    return parts


def check_component(folder: Path, part: str = "") -> None:
    """Check the settings of one part, or of the folder itself, such as a CLIP model's.

    Raises:
        HostError: they name a class other than the part's, code, or a size that no Stable Diffusion or CLIP model has.
    """
    for path in (folder / part / name for name in _FILES):
        if not path.is_file():
            continue
        if path.name == "adapter_config.json":
            raise HostError(f"{path} asks for the weights of another model; give a folder with the weights themselves")
        settings = read_settings(path)
        for key, value in _flat(path, settings):
            _refuse_code(path, key, value)
            if path.name in _FILES_WITH_SIZES:
                _refuse_large(path, key, value)
        for key in ("_class_name", "tokenizer_class"):
            if part and settings.get(key) is not None and settings[key] not in CLASSES[part][1]:
                raise _other_class(path, part, settings[key], CLASSES[part][1])


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        HostError: the file cannot be read, is larger than 1 MiB, or contains something else.
    """
    try:
        settings = json.loads(read_limited(path, _MAX_BYTES).decode("utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise HostError(f"{path} cannot be read ({error}); copy the folder again") from error
    return settings


def _flat(path: Path, value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every setting with its key, at any depth; items of a list have the list's key."""
    if depth > _MAX_DEPTH:
        raise HostError(f"{path} is nested too deeply; copy the folder again")
    yield key, value
    if isinstance(value, dict):
        for inner, setting in value.items():
            yield from _flat(path, setting, inner, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _flat(path, item, key, depth + 1)


def _refuse_code(path: Path, key: str, value: Any) -> None:
    kernel = key in _ATTENTION and value is not None and not (isinstance(value, str) and value.isidentifier())
    if kernel or (key in _CODE and value):
        raise HostError(
            f"{path} sets {key!r}, which refers to code or to weights of another kind and is not supported; give a plain "
            "Stable Diffusion or CLIP folder"
        )


def _refuse_large(path: Path, key: str, value: Any) -> None:
    """Raise for a size that would exhaust memory or time before a mismatch with the weights is found."""
    if isinstance(value, list):
        if len(value) > _MAX_LEVELS and key.endswith(("_blocks", "_block", "_block_types", "_channels")):
            raise _too_large(path, key, f"{len(value):,} entries", _MAX_LEVELS)
    elif isinstance(value, int):  # sizes are finite; other numbers may be infinite
        limit = _MAX_COUNT if key.endswith(("_token_id", "vocab_size", "_timesteps", "num_labels")) else _MAX_SETTING
        if "layers" in key or key.endswith("_blocks"):
            limit = _MAX_LAYERS.get(key, _MAX_BLOCKS)
        if abs(value) > limit:
            size = f"{value:,}" if abs(value) < 10**30 else "a number of more than 30 digits"
            raise _too_large(path, key, size, limit)


def _too_large(path: Path, key: str, size: str, limit: int) -> HostError:
    return HostError(
        f"{path} sets {key[:80]!r} to {size}, where Stable Diffusion and CLIP have at most {limit:,}; copy the folder again"
    )


def _other_class(path: Path, part: str, given: Any, classes: tuple[str, ...]) -> HostError:
    return HostError(f"{path} names {str(given)[:80]!r} as the {part}; supported are {', '.join(classes)}")
