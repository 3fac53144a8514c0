"""Read untrusted tensor files completely or not at all, and never as code.

safetensors contains only tensors. PyTorch's own files contain a pickle; its reader for plain data, which runs no code, reads
them after their sizes are checked.
"""

from __future__ import annotations

import io
import json
import os
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import ParameterDict

from ..errors import TokenError
from .kinds import READ_KINDS, UNKNOWN_KIND, kind_of
from .limits import MAX_HEADER_BYTES, MAX_SET_BYTES
from .regular import name_of, open_regular, read_start

__all__ = [
    "MAX_EMBEDDING_BYTES", "format_of", "header_of", "is_safetensors", "open_token_file", "read_safetensors",
    "read_torch", "refuse_large",
]  # fmt: skip

MAX_EMBEDDING_BYTES = 32 * 2**20
"""Maximum size of an embedding file, also unpacked: at least ten times the largest that fits into a prompt."""

_MAX_PICKLE_BYTES, _MAX_TUPLES = 2**18, 2000
"""Maximum bytes and tuples of a pickle; an embedding has a few hundred bytes and a few dozen tuples."""
_STORAGES = "Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "ComplexFloat"
_ALLOWED_NAMES = {
    "__builtin__ set",
    "builtins set",
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch.nn.modules.container ParameterDict",
    *(f"torch._utils _rebuild_{what}" for what in ("tensor_v2", "parameter", "parameter_with_state")),
    *(f"torch {name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
    *(f"torch {name}Storage" for name in _STORAGES),
}
"""Names allowed in a pickle. PyTorch's reader allows more, such as ``bytearray``, which allocates as much memory as the file says."""

_PICKLE_MAGIC = b"\x80"
"""First bytes of a pickle; PyTorch's files before version 1.6 are several pickles in a row."""


def read_safetensors(
    path: Path, check: Callable[[Mapping[str, str]], object] = lambda metadata: None
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors. ``check`` is called with the metadata before any tensor is read, and may raise.

    Raises:
        TokenError: the file is missing, is not a complete safetensors file, or is larger than ``files/limits.py`` allows.
    """
    try:
        with open_token_file(path) as opened, _map_file(opened, path) as file:
            values = file.metadata() or {}
            check(values)
            # Copies: views of the mapped file would keep it open, and Windows refuses to replace an open file.
            return values, {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        what = "truncated or damaged; copy it again" if is_safetensors(path) else "not a safetensors file"
        raise TokenError(f"{what} ({_described(path) or error})") from error
    except (OSError, RuntimeError) as error:  # the latter from PyTorch, if a file has become shorter meanwhile
        raise TokenError(f"cannot be read ({error}); give a token file") from error


def _described(path: Path) -> str:
    """Description of a file that is not a tensor file, such as a web page; empty if unknown."""
    kind = kind_of(read_start(path, 64))
    if kind in READ_KINDS:
        return f"it contains an image, {kind}"
    what, _, advice = kind.partition(", ")
    if advice.startswith(("convert", "export")):  # to JPEG or PNG, meant for files given as images
        return what
    return "" if kind == UNKNOWN_KIND else kind


def _map_file(file: IO[bytes], path: Path) -> Any:
    """Map the file into memory after checking that it is not larger than a token set can be."""
    refuse_large(file.fileno(), MAX_SET_BYTES)
    length = int.from_bytes(file.read(8) or b"", "little")
    if MAX_HEADER_BYTES < length <= os.fstat(file.fileno()).st_size:
        raise TokenError(f"its header has {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    return safe_open(name_of(file, path), framework="pt")


def is_safetensors(path: Path) -> bool:
    """Whether the content begins like a safetensors file: eight bytes of length, then JSON."""
    return _first_bytes(path)[8:] == b"{"


def format_of(path: str | Path) -> str | None:
    """Value of ``format`` in a safetensors file's metadata, also if its tensors are truncated; otherwise None."""
    try:
        named = header_of(path)["__metadata__"]["format"]
    except (LookupError, TypeError):
        return None
    return named if isinstance(named, str) else None


def header_of(path: str | Path) -> dict[str, Any]:
    """A safetensors file's header as it is: metadata under ``__metadata__``, and each tensor's dtype and shape; empty for any other
    file. The values are not checked."""
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8) or b"", "little")
            header = json.loads(file.read(length) or b"") if length <= MAX_HEADER_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def read_torch(path: Path) -> Any:
    """Read a file of ``torch.save``: tensors, plain values and containers.

    Raises:
        TokenError: the file is missing, incomplete or too large, or contains anything else.
    """
    first_bytes = _first_bytes(path)
    if not first_bytes.startswith(b"PK"):
        old = "a pickle or a PyTorch file from before 2020"
        known = old if first_bytes.startswith(_PICKLE_MAGIC) else _described(path) or "unsupported file type"
        raise TokenError(f"{known}; supported: .safetensors, and .pt/.bin saved by PyTorch 1.6 or newer")
    archive = _copy_in_memory(path)
    # The first textual inversions were saved as a ParameterDict; loading fills it without calling its methods.
    allowing = getattr(torch.serialization, "safe_globals", None)  # since PyTorch 2.5
    try:
        with nullcontext() if allowing is None else allowing([ParameterDict]):
            return torch.load(archive, weights_only=True, map_location="cpu")
    except Exception as error:  # damaged or hostile content makes the reader raise any type
        reason = str(error).split("WeightsUnpickler error: ")[-1].splitlines()[0][:200] if str(error) else ""
        raise TokenError(_not_plain(reason)) from error


def refuse_large(file: Path | int, most: int = MAX_EMBEDDING_BYTES) -> None:
    """Raise a ``TokenError`` if the file, given by its path or descriptor, is larger than ``most`` bytes."""
    size = os.stat(file).st_size
    if size > most:
        what = "embeddings" if most == MAX_EMBEDDING_BYTES else "token sets"
        raise TokenError(f"{_mib(size)}; {what} have at most {_mib(most)}, so this is another kind of file")


def _copy_in_memory(path: Path) -> io.BytesIO:
    """A copy of the archive with exactly the content whose sizes were checked, since two readers may read one file differently."""
    copy = io.BytesIO()
    try:
        with open_regular(path) as file:
            refuse_large(file.fileno())
            with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as checked:
                _copy_members(archive, checked)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise TokenError(f"truncated or damaged; copy it again ({error})") from error
    copy.seek(0)
    return copy


def _copy_members(archive: zipfile.ZipFile, checked: zipfile.ZipFile) -> None:
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > MAX_EMBEDDING_BYTES:
        raise TokenError(f"it unpacks to {_mib(total)}; embeddings have at most {_mib(MAX_EMBEDDING_BYTES)}")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise TokenError("a compressed archive, which PyTorch does not write; unpack it first")
    for name in dict.fromkeys(member.filename for member in members):
        content = archive.read(name)
        if name.lower().endswith("data.pkl"):  # PyTorch's archive reader ignores case
            _refuse_unusual(content)
        checked.writestr(name, content)


def _refuse_unusual(content: bytes) -> None:
    """Raise a ``TokenError`` for content that the reader for plain data accepts, but that no embedding has.

    A tuple of two references to a tuple, repeated many times, is a key whose hash takes exponential time; tuples nested a hundred
    thousand deep crash the process.
    """
    tuple_keys: set[object] = set()
    tuples, last = 0, ""
    if len(content) > _MAX_PICKLE_BYTES:
        raise TokenError(f"its pickle has {len(content):,} bytes; embeddings have a few hundred")
    for operation, argument, _ in pickletools.genops(content):
        name = operation.name
        tuples += name.startswith("TUPLE")
        if name == "GLOBAL" and argument not in _ALLOWED_NAMES:
            raise TokenError(_not_plain(f"it names {str(argument)[:80]}"))
        if name.endswith("PUT"):
            (tuple_keys.add if last.startswith("TUPLE") else tuple_keys.discard)(argument)
        if tuples > _MAX_TUPLES or (name.endswith("GET") and argument in tuple_keys):
            raise TokenError(_not_plain("its tuples are nested as in no embedding"))
        last = name if not name.endswith("PUT") else last


def _not_plain(reason: str) -> str:
    return f"the file is damaged or contains objects other than tensors ({reason}); use a .safetensors version"


def open_token_file(path: Path) -> IO[bytes]:
    """Open a regular file for reading, see ``open_regular``; a ``TokenError`` if it is missing or cannot be read."""
    try:
        return open_regular(path)
    except FileNotFoundError as error:
        raise TokenError("there is no such token file") from error
    except OSError as error:
        raise TokenError(f"cannot be read ({error}); give a token file") from error


def _first_bytes(path: Path) -> bytes:
    with open_token_file(path) as file:
        return file.read(9) or b""


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
