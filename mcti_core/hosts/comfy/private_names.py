"""Private names of ComfyUI that this pack needs, that is, names outside of ComfyUI's documented node API: those of its modules, and
the attributes of its model patchers and operations.

They are checked before a training or a classification uses ComfyUI's models, so that a missing name gives an error and not a
wrong number later. Attributes of its text encoders and tokenizers are used in ``text.py`` and ``prompt_tokens.py``, unchecked.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from torch import nn

from ...errors import HostError

__all__ = [
    "MODULES",
    "OPERATION",
    "PATCHER",
    "TRANSFER",
    "check_host",
    "check_patcher",
    "checkpoint_file",
    "is_paged",
]

_OLDEST_TESTED, _NEWEST_TESTED = "0.3.64", "0.33.0"
"""The oldest and the newest version in which the host tests passed."""

MODULES = {
    "comfy.clip_model": ("CLIPTextModel",),
    "comfy.clip_vision": ("ClipVisionModel", "load_clipvision_from_sd"),
    "comfy.latent_formats": ("SD15",),
    "comfy.ldm.modules.attention": ("attention_pytorch",),
    "comfy.model_base": ("BaseModel",),
    "comfy.model_management": (
        "InterruptProcessingException", "get_torch_device", "load_models_gpu", "soft_empty_cache", "throw_exception_if_processing_interrupted", "unet_offload_device",
    ),
    "comfy.model_patcher": ("ModelPatcher",),
    "comfy.model_sampling": ("CONST", "EPS", "V_PREDICTION", "X0"),
    "comfy.sd": ("CLIP", "VAE", "load_clip"),
    "comfy.samplers": ("cond_cat", "cond_equal_size"),
    "comfy.sd1_clip": ("SD1ClipModel", "SD1Tokenizer", "SDClipModel", "SDTokenizer"),
    "comfy.sdxl_clip": ("SDXLClipModel",),
    "comfy.supported_models_base": ("BASE", "ClipTarget"),
    "comfy.utils": ("ProgressBar", "load_torch_file", "unet_to_diffusers"),
    "folder_paths": (
        "add_model_folder_path", "get_filename_list", "get_folder_paths", "get_full_path", "get_input_directory", "get_output_directory", "get_temp_directory", "get_user_directory", "models_dir", "recursive_search",
    ),
}  # fmt: skip
"""Names by module, in all versions from 0.3.64 on."""
PATCHER = (
    "backup", "cleanup", "get_model_object", "load_device", "model", "model_options", "patches", "patches_uuid",
    "pre_run",
)  # fmt: skip
"""Attributes of a ``ModelPatcher``, in all versions from 0.3.64 on."""
OPERATION = ("weight_function", "bias_function")
"""Attributes of ComfyUI's operations (``comfy.ops``), in all versions from 0.3.64 on."""
_PAGE = "_v"
"""Attribute of an operation under dynamic VRAM, from 0.16.0 on: its place in an address range."""
TRANSFER = "_prefetch"
"""Attribute of an operation under dynamic VRAM while its weights are transferred, from 0.28.0 on."""


@cache
def check_host() -> None:
    """Check the names in ComfyUI's modules.

    Raises:
        HostError: a name is missing.
    """
    for module, names in MODULES.items():
        try:
            found = import_module(module)
        except ImportError as error:
            raise _missing(module) from error
        for name in names:
            if not hasattr(found, name):
                raise _missing(f"{module}.{name}")


def check_patcher(patcher: Any) -> None:
    """Check the names in a loaded model, before gradients run through it.

    Raises:
        HostError: a name is missing, or ComfyUI moves the model's weights in an unknown way, so that gradients could use other
            weights.
    """
    check_host()
    for name in PATCHER:
        if not hasattr(patcher, name):
            raise _missing(f"ModelPatcher.{name}")
    if not getattr(patcher, "is_dynamic", lambda: False)():  # from 0.16.0 on
        return
    paged, remedy = (
        [each for each in patcher.model.modules() if is_paged(each)],
        "; start it with --disable-dynamic-vram",
    )
    if not paged:
        raise _missing(f"{_PAGE} of operations under dynamic VRAM", remedy)
    for module in paged:
        if not all(hasattr(module, name) for name in OPERATION):
            raise _missing(f"weight_function of {type(module).__name__}", remedy)


def is_paged(module: nn.Module) -> bool:
    """Whether dynamic VRAM loads the operation's weights when it is called, and unloads them afterwards."""
    return hasattr(module, _PAGE)


def checkpoint_file(patcher: Any) -> str | None:
    """The path that a stock loader node read a model from; from 0.16.0 on, a ``ModelPatcher`` stores its loader and the arguments."""
    loader = getattr(patcher, "cached_patcher_init", None)
    path = loader[1][0] if isinstance(loader, tuple) and len(loader) > 1 and loader[1] else None
    path = path[0] if isinstance(path, (list, tuple)) and path else path
    return path if isinstance(path, str) else None


def _missing(name: str, remedy: str = "") -> HostError:
    return HostError(
        f"this ComfyUI ({_version()}) has no {name}, which MC-TI needs; it was tested with ComfyUI {_OLDEST_TESTED} to "
        f"{_NEWEST_TESTED}{remedy}"
    )


def _version() -> str:
    try:
        return str(import_module("comfyui_version").__version__)
    except (ImportError, AttributeError):
        return "of an unknown version"
