"""What commands make of their options: host, configuration, examples, features, processes, file of measurements."""

from __future__ import annotations

import argparse
import os
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from .. import distributed
from ..data.dataset import FewShotDataset
from ..data.feature_cache import FeatureCache
from ..data.near_duplicates import describe_across_classes, example_names
from ..distributed import SINGLE_PROCESS, DistributedContext
from ..errors import ConfigError, TokenError
from ..files.output_lock import lock_output
from ..files.provenance import check_outputs, write_json
from ..hosts.base import Host
from ..pocket import POCKET_CONFIG, load_pocket
from ..prompts.splicing import template_prompts
from ..templates import OBJECT_TEMPLATES, STYLE_TEMPLATES
from ..training.config import TrainConfig
from ..training.initial import new_tokens
from .console import progress_bar, say

__all__ = [
    "check_device", "check_new_tokens", "config_of", "examples_of", "features_of", "hflip_of", "host_of", "json_output", "processes_of",
]  # fmt: skip


def examples_of(arguments: argparse.Namespace, folder: Path | None = None, *, min_classes: int = 2) -> FewShotDataset:
    """The examples in a folder, by default the command's own. Skipped files are reported by the first process."""
    beside = {name: value for name in ("captions", "masks") if (value := getattr(arguments, name, None))}
    dataset = FewShotDataset.from_folder(folder or arguments.folder, min_classes=min_classes, **beside)
    say(dataset.skipped, shown=os.environ.get("RANK", "0") == "0")
    return dataset


def processes_of(arguments: argparse.Namespace, *, uneven: bool = False) -> DistributedContext:
    """The process context of this command; each process uses its own GPU unless a device is given."""
    return distributed.launched(cpu=arguments.device == "cpu", uneven=uneven)


def host_of(arguments: argparse.Namespace, processes: DistributedContext | None = None) -> Host:
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
        return load_pocket(device=device, dtype="fp32" if arguments.dtype == "auto" else arguments.dtype)
    from ..hosts.diffusers.host import load_host

    dtype = arguments.dtype
    if dtype == "auto":  # half precision on CUDA; bf16 does not overflow, but older GPUs lack it
        cuda = torch.device(device).type == "cuda"
        dtype = ("bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16") if cuda else "fp32"
    return load_host(arguments.model, arguments.clip, device=device, dtype=dtype, config=arguments.model_config)


def check_device(device: str) -> None:
    """Raise a ``ConfigError`` unless PyTorch can compute on the device."""
    try:
        torch.device(device)
    except RuntimeError as error:  # the message lists many rare device types
        raise ConfigError(f"the device {device!r} is not known; give auto, cpu, cuda, cuda:1, xpu or mps") from error
    try:
        torch.zeros(1, device=device).item()  # fails for the device meta
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"the device {device!r} cannot be used here: {str(error).splitlines()[0]:.160}") from error


def config_of(arguments: argparse.Namespace) -> TrainConfig:
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


@contextmanager
def json_output(
    arguments: argparse.Namespace, *, shown: bool = True
) -> Iterator[Callable[[Mapping[str, Any]], object]]:
    """Check and lock the file of ``--output-json``, and yield a function that writes its whole content.

    Without the option or ``shown``, the function does nothing.

    Raises:
        FileError: a foreign file or an earlier result is there, another run holds the lock, or the folder is not writable.
    """
    path = arguments.output_json
    if path is None or not shown:
        yield lambda content: None
        return
    with lock_output(path, folder=False):
        check_outputs([path], overwrite=arguments.overwrite)
        yield lambda content: write_json(content, path)


def check_new_tokens(host: Host, config: TrainConfig, num_vectors: int, initializer_token: str | None) -> None:
    """Raise a ``TokenError`` if such tokens cannot be created or do not fit into the prompts."""

    def misfit(count: int) -> TokenError | None:
        try:
            for encoder in host.text.values():
                template_prompts(encoder, config.templates, count)
        except TokenError as error:
            return error
        return None

    new_tokens(host, ("x",), num_vectors=num_vectors, initializer_token=initializer_token)
    if error := misfit(num_vectors):
        longest = min(num_vectors, *(encoder.length for encoder in host.text.values()))
        most = bisect(range(1, longest), 0, key=lambda count: misfit(count) is not None)
        more = f"; --num-vectors {most} is the most that fits" if most else "; give shorter templates"
        raise TokenError(f"{error}{more}") from error
