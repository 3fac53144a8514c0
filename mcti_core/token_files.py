"""Token files: a whole set in one file, to be loaded again; and one embedding file a class, for prompts elsewhere.

Only safetensors is written or read: unlike pickled files, it cannot carry code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .atomic import write_atomically
from .errors import TokenError
from .tokens import Support, TokenSet, safe_names

__all__ = [
    "SUFFIX",
    "export_embedding",
    "export_embeddings",
    "import_embeddings",
    "is_own_file",
    "load_tokens",
    "save_tokens",
]

SUFFIX = ".safetensors"
_FORMAT, _VERSION = "mcti-token-set", 1
_EMBEDDING = "mcti-embedding"
_SINGLE = "emb_params"
"""The key of a token of one text encoder, as for SD 1.x and 2.x."""
_WIDTHS = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
"""Which text encoder such a token is for, where the file does not say."""
_FEATURES, _LABELS = "support.features", "support.labels"
_LIBRARIES = ("mcti", "torch", "transformers", "diffusers", "safetensors")


def save_tokens(tokens: TokenSet, path: str | Path) -> Path:
    """Write a token set into one file, whole or not at all.

    The file holds ``<encoder>`` (C, V, d) float32 for each text encoder, ``support.features`` (N, p) float32 and
    ``support.labels`` (N,) int64 where there are any, and all else as metadata, each value as JSON.

    Args:
        tokens: what to save; ``tokens.training`` of values that JSON knows.
        path: ``.safetensors`` is added where it is missing.

    Returns:
        The file's path.

    Raises:
        TokenError: the file cannot be written, or ``tokens.training`` holds something else.
    """
    tensors = {name: _plain(v) for name, v in tokens.vectors.items()}
    if tokens.support is not None:
        tensors |= {_FEATURES: _plain(tokens.support.features), _LABELS: tokens.support.labels.cpu().clone()}
    values = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "labels": tokens.labels,
        "names": tokens.names,
        "encoders": list(tokens.vectors),
        "templates": tokens.templates,
        "pooling": tokens.pooling,
        "base_model": tokens.base_model,
        "training": dict(tokens.training),
        "versions": _versions(),
    }
    return _write(_with_suffix(path), tensors, values)


def load_tokens(path: str | Path) -> TokenSet:
    """Read what ``save_tokens`` wrote, equal to the bit.

    Raises:
        TokenError: no such file, not a whole safetensors file, not a token set, one with wrong content, or one written
            by a newer version of this project.
    """
    try:
        return _token_set(*_read(Path(path)))
    except TokenError as error:
        raise TokenError(f"{path}: {error}") from error


def export_embedding(tokens: TokenSet, which: str | int, folder: str | Path) -> Path:
    """Write one class as an embedding file for prompts, named after its token.

    A token of one text encoder becomes ``emb_params`` (V, d) float32, as for SD 1.x and 2.x; one of several has a key
    for each encoder (``clip_l``, ``clip_g``), as for SDXL.

    Args:
        which: the class's label, its token name in any case, or its index.

    Returns:
        ``folder/<token name>.safetensors``.

    Raises:
        TokenError: no such class, a name that no file can have, or the file cannot be written.
    """
    index = _index(tokens, which)
    name = tokens.names[index]
    if safe_names([name]) != (name,):
        raise TokenError(f"token name {name!r} cannot be a file's name; use letters, digits and '-'")
    vectors = {encoder: _plain(v[index]) for encoder, v in tokens.vectors.items()}  # each (V, d)
    if len(vectors) == 1:
        vectors = {_SINGLE: next(iter(vectors.values()))}
    values = {
        "format": _EMBEDDING,
        "name": name,
        "label": tokens.labels[index],
        "encoders": list(tokens.vectors),
        "templates": tokens.templates,
        "pooling": tokens.pooling,
        "base_model": tokens.base_model,
    }
    return _write(Path(folder) / f"{name}{SUFFIX}", vectors, values)


def export_embeddings(tokens: TokenSet, folder: str | Path) -> list[Path]:
    """``export_embedding`` of every class, in label order."""
    return [export_embedding(tokens, index, folder) for index in range(len(tokens))]


def import_embeddings(paths: Sequence[str | Path]) -> TokenSet:
    """Read embedding files as one token set, a class each, in the order given.

    Files that ``export_embedding`` wrote bring back labels, templates and pooling; of others, which hold ``emb_params``
    (V, d) or a key for each encoder, the label is the file's name.

    Raises:
        TokenError: no files, no whole safetensors files, other keys, or tokens that do not fit together.
    """
    if not paths:
        raise TokenError("there are no embedding files to read")
    tokens = [_imported(Path(path)) for path in paths]
    first = tokens[0]
    shapes = [{name: v.shape[1:] for name, v in one.vectors.items()} for one in tokens]
    for path, one, shape in zip(paths, tokens, shapes, strict=True):
        if shape != shapes[0] or (one.pooling, one.templates) != (first.pooling, first.templates):
            raise TokenError(
                f"{path} does not go together with {paths[0]}: {_described(one)}, and {_described(first)}; load them apart"
            )
    return replace(
        first,
        labels=tuple(one.labels[0] for one in tokens),
        names=tuple(one.names[0] for one in tokens),
        vectors={name: torch.cat([one.vectors[name] for one in tokens]) for name in first.vectors},
    )


def is_own_file(path: str | Path) -> bool:
    """Whether a file was written here, so that it may be written anew."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") in (json.dumps(_FORMAT), json.dumps(_EMBEDDING))
    except (OSError, SafetensorError):
        return False


def _imported(path: Path) -> TokenSet:
    """One embedding file as a set of one class."""
    try:
        values, tensors = _read(path, check=False)
        own = values.get("format") == json.dumps(_EMBEDDING)
        if _SINGLE in tensors:
            vectors = _tensor({_SINGLE: tensors[_SINGLE].float()}, _SINGLE, 2)
            guess = _WIDTHS.get(vectors.shape[1])
            encoder = _value(values, "encoders", list)[0] if own else guess
            if encoder is None:
                raise TokenError(f"it is {vectors.shape[1]} wide; known are {', '.join(map(str, _WIDTHS))}")
            by_encoder = {encoder: vectors[None]}
        else:
            names = [name for name in _WIDTHS.values() if name in tensors]
            if not names:
                raise TokenError(
                    f"it holds neither {_SINGLE!r} nor a key for an encoder ({', '.join(_WIDTHS.values())})"
                )
            by_encoder = {name: _tensor({name: tensors[name].float()}, name, 2)[None] for name in names}
        label = _value(values, "label", str) if own else path.stem
        tokens = TokenSet((label,), by_encoder, safe_names([path.stem]))
        if not own:
            return tokens
        return replace(
            tokens,
            templates=tuple(_value(values, "templates", list)),
            pooling=_value(values, "pooling", str),
            base_model=_value(values, "base_model", str),
        )
    except TokenError as error:
        raise TokenError(f"{path}: {error}") from error


def _described(tokens: TokenSet) -> str:
    widths = " and ".join(f"{name} {v.shape[2]} wide" for name, v in tokens.vectors.items())
    return f"one has {tokens.vectors_per_token} vectors for {widths}, read at {tokens.pooling!r}"


def _write(path: Path, tensors: dict[str, Tensor], values: Mapping[str, Any]) -> Path:
    try:
        described = {key: json.dumps(value) for key, value in values.items()}
    except (TypeError, ValueError) as error:
        raise TokenError(f"{path} is not written: what describes the tokens must be plain values ({error})") from error
    try:
        return write_atomically(path, lambda file: save_file(tensors, file, metadata=described))
    except (OSError, SafetensorError) as error:
        raise TokenError(f"{path} cannot be written ({error}); choose another place or make room") from error


def _read(path: Path, check: bool = True) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            values = file.metadata() or {}
            if check:
                _check_format(values)  # before anything large is read
            # Copies: views of the mapped file would keep it open, and Windows refuses to replace an open file.
            return values, {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise TokenError("there is no such token file") from error
    except SafetensorError as error:
        what = "cut short or damaged; copy it anew" if _begun(path) else "not a safetensors file; only those are read"
        raise TokenError(f"{what} ({error})") from error
    except OSError as error:
        raise TokenError(f"cannot be read ({error}); give a token file") from error


def _begun(path: Path) -> bool:
    """Whether it starts as a safetensors file does: eight bytes of length, then JSON."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _check_format(values: Mapping[str, str]) -> None:
    if values.get("format") != json.dumps(_FORMAT):
        raise TokenError("no token set (an exported embedding is not one either); give a file that was saved as one")
    if (version := _value(values, "format_version", int)) > _VERSION:
        raise TokenError(f"format version {version} is newer than {_VERSION}, which this program knows; update it")


def _token_set(values: Mapping[str, str], tensors: Mapping[str, Tensor]) -> TokenSet:
    templates = _value(values, "templates", list)
    if not templates:
        raise TokenError("the token set names no templates; it is damaged")
    tokens = TokenSet(
        labels=tuple(_value(values, "labels", list)),
        vectors={name: _tensor(tensors, name, 3) for name in _value(values, "encoders", list)},
        names=tuple(_value(values, "names", list)),
        templates=tuple(templates),
        pooling=_value(values, "pooling", str),
        base_model=_value(values, "base_model", str),
        training=_value(values, "training", dict),
    )
    return replace(tokens, support=_support(tensors, len(tokens)))


def _value(values: Mapping[str, str], key: str, kind: type) -> Any:
    """One value of the metadata; lists are of strings."""
    try:
        value = json.loads(values[key])
    except (KeyError, ValueError) as error:
        raise TokenError(f"the token set lacks {key!r}, or it is damaged; save or copy the file anew") from error
    if not isinstance(value, kind) or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
        raise TokenError(
            f"the token set's {key!r} is of the wrong kind ({str(value)[:80]}); save or copy the file anew"
        )
    return value


def _tensor(tensors: Mapping[str, Tensor], key: str, dimensions: int, dtype: torch.dtype = torch.float32) -> Tensor:
    if key not in tensors:
        raise TokenError(f"the file holds no tensor {key!r}; there are: {', '.join(sorted(tensors)) or 'none'}")
    tensor = tensors[key]
    if tensor.ndim != dimensions or tensor.dtype != dtype or not tensor.numel():
        raise TokenError(
            f"tensor {key!r} must be {dtype} with {dimensions} dimensions and not empty, got {tensor.dtype} {tuple(tensor.shape)}"
        )
    return tensor


def _support(tensors: Mapping[str, Tensor], classes: int) -> Support | None:
    if _FEATURES not in tensors:
        return None
    features, labels = _tensor(tensors, _FEATURES, 2), _tensor(tensors, _LABELS, 1, torch.int64)
    if len(features) != len(labels) or labels.min() < 0 or labels.max() >= classes or not features.isfinite().all():
        raise TokenError("the examples' features and labels do not fit together or the classes")
    return Support(features, labels)


def _index(tokens: TokenSet, which: str | int) -> int:
    if isinstance(which, str):
        if which in tokens.labels:
            return tokens.labels.index(which)
        folded = [name.casefold() for name in tokens.names]
        if which.casefold() in folded:
            return folded.index(which.casefold())
    elif 0 <= which < len(tokens):
        return which
    raise TokenError(f"there is no class {which!r} here; there are: {', '.join(tokens.labels)}")


def _plain(tensor: Tensor) -> Tensor:
    """A copy of its own: safetensors refuses tensors that share memory."""
    return tensor.detach().float().cpu().contiguous().clone()


def _with_suffix(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)


def _versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = distributions.version(name)
        except distributions.PackageNotFoundError:
            continue
    return versions
