"""Options that several commands share, and what is made of them: host, configuration, examples, features, processes."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from .. import distributed
from ..classifiers import METHODS
from ..distributed import SINGLE_PROCESS, DistributedContext
from ..errors import ConfigError
from . import argument_types as types
from .console import progress_bar, say

if TYPE_CHECKING:
    from pathlib import Path

    from ..data.dataset import FewShotDataset
    from ..data.feature_cache import FeatureCache
    from ..hosts.base import Host
    from ..training.config import TrainConfig

__all__ = [
    "add_method", "add_model", "add_output_dir", "add_overwriting", "check_device", "config_of", "examples_of", "features_of", "hflip_of",
    "host_of", "processes_of",
]  # fmt: skip


def add_output_dir(command: argparse.ArgumentParser, contents: str) -> None:
    command.add_argument("--output-dir", "-o", type=types.folder_path, required=True, help=contents)
    add_overwriting(command)


def add_overwriting(command: argparse.ArgumentParser) -> None:
    replace = "replace the results of an earlier run; without it they are never replaced"
    command.add_argument("--overwrite", action="store_true", help=replace)


def add_method(group: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    auto = "auto is clip if there is a CLIP space, otherwise diffusion"
    group.add_argument("--method", choices=METHODS, default="auto", help=auto)


def add_model(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("model").add_argument
    model = "a diffusers folder or single-file checkpoint; by default the pocket checkpoint"
    option("--model", type=types.path, help=model)
    option("--clip", type=types.path, help="a folder with the CLIP model of the checkpoint's text encoder")
    config = "for a single-file checkpoint, offline: a diffusers folder of its family"
    option("--model-config", type=types.path, help=config)
    option("--device", default="auto", help="auto (the first available of cuda, xpu, mps, cpu), cpu, cuda, ...")
    dtype = "number format of the weights; auto: bf16 or else fp16 on CUDA, fp32 on other devices and for the pocket checkpoint"
    option("--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help=dtype)


def examples_of(arguments: argparse.Namespace, folder: Path | None = None, *, min_classes: int = 2) -> FewShotDataset:
    """The examples in a folder, by default the command's own. Skipped files are reported by the first process."""
    from ..data.dataset import FewShotDataset

    beside = {name: value for name in ("captions", "masks") if (value := getattr(arguments, name, None))}
    dataset = FewShotDataset.from_folder(folder or arguments.folder, min_classes=min_classes, **beside)
    say(dataset.skipped, shown=os.environ.get("RANK", "0") == "0")
    return dataset


def processes_of(arguments: argparse.Namespace, *, uneven: bool = False) -> DistributedContext:
    """The process context of this command; each process uses its own GPU unless a device is given."""
    return distributed.launched(cpu=arguments.device == "cpu", uneven=uneven)


def host_of(arguments: argparse.Namespace, processes: DistributedContext | None = None) -> Host:
    import torch

    from ..hosts.diffusers.loading import quiet_libraries

    quiet_libraries()
    device = arguments.device
    if device in ("auto", "cuda") and processes is not None and processes.count > 1:
        device = processes.device
    if device == "auto":
        found = (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.backends.mps))
        device = next((name for name, backend in found if backend.is_available()), "cpu")
    check_device(device)
    if arguments.model is None:
        from ..pocket import load_pocket

        return load_pocket(device=device, dtype="fp32" if arguments.dtype == "auto" else arguments.dtype)
    from ..hosts.diffusers.host import load_host

    dtype = arguments.dtype
    if dtype == "auto":  # half precision on CUDA; bf16 does not overflow, but older GPUs lack it
        cuda = torch.device(device).type == "cuda"
        dtype = ("bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16") if cuda else "fp32"
    return load_host(arguments.model, arguments.clip, device=device, dtype=dtype, config=arguments.model_config)


def check_device(device: str) -> None:
    """Raise a ``ConfigError`` unless PyTorch can compute on the device."""
    import torch

    try:
        torch.device(device)
    except RuntimeError as error:  # the message lists many rare device types
        raise ConfigError(f"the device {device!r} is not known; give auto, cpu, cuda, cuda:1, xpu or mps") from error
    try:
        torch.zeros(1, device=device).item()  # fails for the device meta
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"the device {device!r} cannot be used here: {str(error).splitlines()[0]:.160}") from error


def config_of(arguments: argparse.Namespace) -> TrainConfig:
    from ..pocket import POCKET_CONFIG
    from ..templates import OBJECT_TEMPLATES, STYLE_TEMPLATES
    from ..training.config import TrainConfig

    given = {f.name: value for f in fields(TrainConfig) if (value := getattr(arguments, f.name, None)) is not None}
    if "templates" in given:
        given["templates"] = STYLE_TEMPLATES if given["templates"] == "style" else OBJECT_TEMPLATES
    if arguments.template:
        given["templates"] = tuple(arguments.template)
    if given.get("gamma") == 0:
        given.setdefault("classification_only_steps", 0)
    return replace(POCKET_CONFIG if arguments.model is None else TrainConfig(), **given)


def hflip_of(arguments: argparse.Namespace) -> bool:
    """Whether to train on flipped images: by default not with the pocket checkpoint, which is for digits."""
    return arguments.model is not None if arguments.hflip is None else bool(arguments.hflip)


def features_of(
    arguments: argparse.Namespace, host: Host, dataset: FewShotDataset, processes: DistributedContext = SINGLE_PROCESS,
    *, latents: bool = True,
) -> FeatureCache:  # fmt: skip
    """The cached features of the examples. Reports images that occur in several classes."""
    from ..data.feature_cache import FeatureCache
    from ..data.near_duplicates import describe_across_classes, example_names

    with progress_bar("features", "image", shown=processes.is_main) as progress:
        cache = FeatureCache.build(
            host, dataset, hflip=hflip_of(arguments), folder=arguments.cache, buckets=getattr(arguments, "buckets", False),
            latents=latents, progress=progress, processes=processes,
        )  # fmt: skip
    if cache.masks is not None and bool((cache.masks == 1).all()):
        reason = "no image has transparent parts" if str(arguments.masks) == "alpha" else "every mask is white"
        say(f"--masks changes nothing: {reason}", shown=processes.is_main)
    say(describe_across_classes(cache.alike, cache.labels, example_names(dataset)), shown=processes.is_main)
    return cache
