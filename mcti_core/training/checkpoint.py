"""Save and load the state of a training, to the bit.

Only safetensors is written or read: unlike pickled files, it cannot carry code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ResumeError
from ..files.limits import MAX_STEPS, MAX_TRAINING_BYTES
from ..files.regular import name_of, open_regular
from ..files.safe_load import format_of
from ..files.writing import write_own
from .state import TrainState

__all__ = ["is_training", "load_checkpoint", "save_checkpoint"]

_FORMAT, _VERSION = "mcti-training", 1


def save_checkpoint(state: TrainState, path: str | Path) -> Path:
    """Write a state to a file, atomically, and return ``path``.

    Tensors are ``vectors.<encoder>``, ``moments.<parameter>.<name>``, ``generators.<i>``, for an adaptive gamma
    ``gradient_norms`` (3,) float32, and in float64 ``history`` (steps, losses) and ``best`` (2,). All other values are
    metadata, as JSON.

    Raises:
        ResumeError: the file cannot be written.
        FileError: the file exists and is not a training.
    """
    losses = list(state.history[0]) if state.history else []
    rows = [[row[name] for name in losses] for row in state.history]
    tensors = {f"vectors.{name}": vector for name, vector in state.vectors.items()}
    tensors |= {f"moments.{i}.{name}": value for i, moment in state.moments.items() for name, value in moment.items()}
    tensors |= {f"generators.{i}": generator for i, generator in enumerate(state.generators)}
    tensors |= {} if state.gradient_norms is None else {"gradient_norms": state.gradient_norms}
    tensors["history"] = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(losses))
    tensors["best"] = torch.tensor(state.best, dtype=torch.float64)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    batches = {name: list(queue) for name, queue in state.batches.items()}
    values = {
        "format": _FORMAT, "format_version": _VERSION, "identity": dict(state.identity), "losses": losses, "batches": batches,
    }  # fmt: skip
    metadata = {name: json.dumps(value) for name, value in values.items()}
    try:
        return write_own(path, lambda file: save_file(tensors, file, metadata=metadata), is_training)
    except (OSError, SafetensorError) as error:
        raise ResumeError(
            f"the training cannot be saved in {path} ({error}); free disk space, or choose another place"
        ) from error


def is_training(path: str | Path) -> bool:
    """Whether a file was written by ``save_checkpoint``, so that it may be replaced or removed."""
    return format_of(path) == json.dumps(_FORMAT)


def load_checkpoint(path: str | Path) -> TrainState:
    """Read a file of ``save_checkpoint``.

    Raises:
        ResumeError: the file does not exist, is damaged, is not a training, or is of a newer version.
    """
    try:
        with open_regular(path) as opened:
            if os.fstat(opened.fileno()).st_size > MAX_TRAINING_BYTES:
                raise ValueError(f"it is larger than {MAX_TRAINING_BYTES // 2**30} GiB")
            with safe_open(name_of(opened, path), framework="pt") as file:
                values = _values(file.metadata() or {})
                # Copies: views of the mapped file would keep it open, and Windows refuses to replace an open file.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        return _unpacked(tensors, values)
    except FileNotFoundError as error:
        raise ResumeError(f"there is no training {path} to continue") from error
    except OSError as error:
        raise ResumeError(f"{path} cannot be read ({error})") from error
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise ResumeError(f"{path} is not a training, or is damaged ({error})") from error
    except ResumeError as error:
        raise ResumeError(f"{path} {error}") from error


def _unpacked(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> TrainState:
    def part(kind: str) -> dict[str, Tensor]:
        return {name[len(kind) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{kind}.")}

    losses, history = values["losses"], tensors["history"]
    texts, numbers = [losses, [*values["identity"].values()]], values["batches"].values()
    lists = [*((items, str) for items in texts), *((items, int) for items in numbers)]
    if not all(isinstance(items, list) and all(isinstance(item, kind) for item in items) for items, kind in lists):
        raise ValueError("its content has wrong types")
    if history.dtype != torch.float64 or history.ndim != 2 or history.shape[1] != len(losses):
        raise ValueError("its losses are not a table with one row per step")
    if len(history) > MAX_STEPS:
        raise ValueError(f"it has more than {MAX_STEPS:,} steps")
    if len(history) and not losses:
        raise ValueError("its steps have no losses")  # they would cost memory without being stored
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in part("moments").items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = tensor
    generators = part("generators")
    best_loss, wait_count = tensors["best"].tolist()
    return TrainState(
        identity=values["identity"],
        history=tuple(dict(zip(losses, row, strict=True)) for row in history.tolist()),
        vectors=part("vectors"),
        moments=moments,
        generators=tuple(generators[str(i)] for i in range(len(generators))),
        batches=values["batches"],
        best=(best_loss, int(wait_count)),
        gradient_norms=tensors.get("gradient_norms"),
    )


def _values(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The file's metadata, if this version can read it."""
    values = {name: json.loads(value) for name, value in metadata.items()}
    if values.get("format") != _FORMAT:
        raise ResumeError("is not a training checkpoint")
    version = values["format_version"]
    if not isinstance(version, int):
        raise ValueError("its format version is not an integer")
    if version > _VERSION:
        raise ResumeError(f"has format version {version}, but this program reads {_VERSION}; update it")
    return values
