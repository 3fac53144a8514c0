"""Files of tensors that others may have written: read whole or not at all, and never as code.

safetensors can hold nothing but tensors. PyTorch's own files hold a pickle; they are read by its reader for plain content,
which runs nothing, and only after their sizes were looked at.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import ParameterDict

from .errors import TokenError

__all__ = ["MOST_BYTES", "is_safetensors", "read_safetensors", "read_torch", "refuse_large"]

MOST_BYTES = 32 * 2**20
"""Of an embedding file, and of what it unpacks to: a hundred times the largest that prompts have room for."""

_OLD = b"\x80"
"""How a pickle begins; PyTorch's files before version 1.6 are several in a row."""


def read_safetensors(
    path: Path, check: Callable[[Mapping[str, str]], object] = lambda metadata: None
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors.

    Args:
        check: called with the metadata before any tensor is read; may raise.

    Raises:
        TokenError: no such file, or not a whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            values = file.metadata() or {}
            check(values)
            # Copies: views of the mapped file would keep it open, and Windows refuses to replace an open file.
            return values, {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise TokenError("there is no such token file") from error
    except SafetensorError as error:
        what = "cut short or damaged; copy it anew" if is_safetensors(path) else "not a safetensors file"
        raise TokenError(f"{what} ({error})") from error
    except OSError as error:
        raise TokenError(f"cannot be read ({error}); give a token file") from error


def is_safetensors(path: Path) -> bool:
    """Whether it starts as a safetensors file does: eight bytes of length, then JSON."""
    return _begin(path)[8:] == b"{"


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote: tensors, and plain values and containers around them.

    Raises:
        TokenError: no such file, not a whole one, too large, or with anything else in it.
    """
    begin = _begin(path)
    if not begin.startswith(b"PK"):
        known = "a pickle or a PyTorch file from before 2020" if begin.startswith(_OLD) else "no file of tensors"
        raise TokenError(f"{known}; read are .safetensors, and the .pt and .bin that PyTorch writes since version 1.6")
    refuse_large(path)
    archive = _checked_copy(path)
    # ParameterDict is what the first textual inversions were kept in; it is filled, and none of its methods is called.
    allowing = getattr(torch.serialization, "safe_globals", None)  # since PyTorch 2.5
    try:
        with nullcontext() if allowing is None else allowing([ParameterDict]):
            return torch.load(archive, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever damaged or hostile content makes of the reader
        reason = str(error).split("WeightsUnpickler error: ")[-1].splitlines()[0][:200] if str(error) else ""
        raise TokenError(
            f"it holds something else than tensors and plain values, which is not run, or it is damaged ({reason}); "
            "get it as .safetensors"
        ) from error


def refuse_large(path: Path) -> None:
    """Raises: TokenError: an embedding is not that large."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise TokenError(f"{_mib(size)}; embeddings have at most {_mib(MOST_BYTES)}, so this is something else")


def _checked_copy(path: Path) -> io.BytesIO:
    """The archive with exactly the content whose sizes were checked: two readers may see one file in two ways."""
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as checked:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > MOST_BYTES:
                raise TokenError(f"it unpacks to {_mib(total)}; embeddings have at most {_mib(MOST_BYTES)}")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise TokenError("a compressed archive, which PyTorch does not write; unpack it first")
            for name in dict.fromkeys(member.filename for member in members):
                checked.writestr(name, archive.read(name))
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise TokenError(f"cut short or damaged; copy it anew ({error})") from error
    copy.seek(0)
    return copy


def _begin(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(9)
    except FileNotFoundError as error:
        raise TokenError("there is no such token file") from error
    except OSError as error:
        raise TokenError(f"cannot be read ({error}); give a token file") from error


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
