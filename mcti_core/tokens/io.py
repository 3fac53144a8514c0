"""Token files: a complete token set in one file, to load again; and one embedding file per class, for prompts in any program.

Only safetensors is written, which cannot carry code. ``tokens/formats.py`` reads embeddings of other programs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError, TokenError
from ..files.limits import MAX_CLASSES
from ..files.provenance import library_versions
from ..files.safe_load import format_of, read_safetensors
from ..files.writing import refuse_foreign, refuse_lookalikes, write_own
from . import LAYOUTS
from .embedding_cards import CARD_SUFFIXES
from .encoders import CLIP_FOR_CLASSIFYING, ONETRAINER_KEYS
from .formats import EMBEDDING, SUFFIXES, read_embedding
from .modelspec import embedding_metadata
from .names import safe_names
from .ops import class_index, merge
from .set_format import FEATURES, FORMAT, LABELS, NOT_A_SET, VERSION, check_format, metadata_value, parse_token_set
from .token_set import TokenSet

__all__ = [
    "LAYOUTS", "SUFFIX", "export_embedding", "export_embeddings", "import_embedding", "import_embeddings",
    "in_set_order", "is_own_file", "is_token_set", "load_tokens", "refuse_foreign_tokens", "save_tokens",
]  # fmt: skip

SUFFIX = ".safetensors"
_TRAINED = ("shots", "gamma", "seed", "base_fingerprint")
"""Training settings that are written into each embedding, if they are known."""


def save_tokens(tokens: TokenSet, path: str | Path) -> Path:
    """Write a token set into one file, atomically.

    The file holds ``<encoder>`` (C, V, d) float32 for each text encoder, ``support.features`` (N, p) float32 and
    ``support.labels`` (N,) int64 if there are any, and everything else as metadata, each value as JSON.

    Args:
        tokens: the set; ``tokens.training`` must contain JSON types only.
        path: ``.safetensors`` is added if it is missing.

    Returns:
        The file's path.

    Raises:
        TokenError: the file cannot be written, or ``tokens.training`` contains other types.
        FileError: a foreign file or an embedding has this name.
    """
    path = Path(path)
    tensors = {name: _cpu_copy(v) for name, v in tokens.vectors.items()}
    if tokens.support is not None:
        tensors |= {FEATURES: _cpu_copy(tokens.support.features), LABELS: tokens.support.labels.cpu().clone()}
    values = {
        "format": FORMAT,
        "format_version": VERSION,
        "labels": tokens.labels,
        "names": tokens.names,
        "encoders": list(tokens.vectors),
        "templates": tokens.templates,
        "pooling": tokens.pooling,
        "base_model": tokens.base_model,
        "training": dict(tokens.training),
        "versions": library_versions(),
    }
    path = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
    return _write(path, tensors, values, sets=True)


def load_tokens(path: str | Path) -> TokenSet:
    """Read a file of ``save_tokens``, identical to the bit.

    Raises:
        TokenError: the file is missing, is not a complete safetensors file or not a token set, has invalid content, or was
            written by a newer version of this project.
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, raises no error in a folder that may not be read
        raise TokenError(f"{path} is a folder, not a token set; name the file, as in {path / 'tokens.safetensors'}")
    if path.suffix.lower() in (*SUFFIXES[1:], *CARD_SUFFIXES) and os.path.isfile(path) and not is_token_set(path):
        raise TokenError(f"{path} is {NOT_A_SET}")
    try:
        return parse_token_set(*read_safetensors(path, check_format))
    except TokenError as error:
        raise TokenError(f"{path}: {error}") from error


def export_embedding(
    tokens: TokenSet, which: str | int, folder: str | Path, *, layout: str = "comfyui", labels: Sequence[str] = ()
) -> Path:
    """Write one class as an embedding file for prompts, named after its token.

    The file has one key per text encoder, ComfyUI's ``embedding_key`` (``clip_l``, ``t5xxl``, ``qwen3_4b``), each (V, d) float32. A token of a
    single CLIP encoder becomes ``emb_params``, as for SD 1.x and 2.x. docs/token-files.md lists the programs that were tested.

    Args:
        which: the class's label, its token name in any case, or its index.
        layout: ``"comfyui"``; ``"diffusers"``, whose key is the token itself if there is one encoder; or ``"onetrainer"``, which uses
            ``emp_params`` (sic) for a single CLIP encoder, and its own names of other encoders (``t5``, ``gemma``).
        labels: of all classes that are exported together, in order, if ``tokens`` contains only some; the file records them.

    Returns:
        ``folder/<token name>.safetensors``.

    Raises:
        TokenError: no such class or layout, or the file cannot be written.
        FileError: a foreign file or a token set has this name.
    """
    index = class_index(tokens, which)
    name, label = tokens.names[index], tokens.labels[index]
    vectors = {
        encoder: _cpu_copy(v[index]) for encoder, v in tokens.vectors.items() if encoder != CLIP_FOR_CLASSIFYING
    }  # each (V, d)
    if not vectors:
        raise TokenError(f"{label!r} has only vectors for classifying by CLIP, and none for prompts")
    tensors = _by_key(vectors, layout, name)
    values = {
        "name": name,
        "label": label,
        "labels": tuple(labels) or tokens.labels,
        "encoders": list(vectors),
        "templates": tokens.templates,
        "pooling": tokens.pooling,
        "base_model": tokens.base_model,
        "training": {key: tokens.training[key] for key in _TRAINED if key in tokens.training},
    }
    metadata = {"format": EMBEDDING, **embedding_metadata(vectors, tensors, name, label)}
    return _write(Path(folder) / f"{name}{SUFFIX}", tensors, values, metadata)


def export_embeddings(tokens: TokenSet, folder: str | Path, *, layout: str = "comfyui") -> list[Path]:
    """``export_embedding`` of every class, in label order."""
    return [export_embedding(tokens, index, folder, layout=layout) for index in range(len(tokens))]


def import_embedding(path: str | Path) -> tuple[TokenSet, tuple[str, ...]]:
    """Read one embedding file as a set of one class; raises as ``tokens.formats.read_embedding``.

    Returns:
        The set, and the labels of the set that the file was written from, in order; empty for other programs' files.
    """
    path = Path(path)
    try:
        found = read_embedding(path)
        vectors = {name: rows[None] for name, rows in found.vectors.items()}
        stem = path.stem
        # diffusers gives all of its files the same name, and images with an embedding circulate under any name
        if found.token and (stem.startswith("learned_embeds") or path.suffix.lower() in CARD_SUFFIXES):
            stem = found.token.strip("<>")
        tokens = TokenSet((stem,), vectors, safe_names([stem]), base_model=found.base_model)
        return _with_metadata(tokens, found.metadata) if found.metadata else (tokens, ())
    except TokenError as error:
        raise TokenError(f"{path}: {error}") from error


def import_embeddings(paths: Sequence[str | Path]) -> TokenSet:
    """Read embedding files as one token set, one class per file.

    Files of ``export_embedding`` restore labels, templates and pooling, and if they are a complete set, its label order.
    For other programs' files the label is the file's name, templates and pooling are the defaults, and the order is the
    given one.

    Raises:
        TokenError: there are no files, ``tokens.formats.read_embedding`` fails, or the tokens cannot be in one set.
    """
    if not paths:
        raise TokenError("there are no embedding files to read")
    if len(paths) > MAX_CLASSES:
        raise TokenError(f"there are {len(paths):,} embedding files; a token set has at most {MAX_CLASSES:,}")
    read = [import_embedding(path) for path in paths]
    return merge(*(read[index][0] for index in in_set_order(read)))


def in_set_order(read: Sequence[tuple[TokenSet, tuple[str, ...]]]) -> list[int]:
    """The order of results of ``import_embedding`` in their set, if they are one complete set; otherwise as given."""
    labels = [tokens.labels[0] for tokens, _ in read]
    set_labels = read[0][1] if read else ()
    if any(order != set_labels for _, order in read) or sorted(set_labels) != sorted(labels):
        return list(range(len(read)))
    return [labels.index(label) for label in set_labels]


def is_token_set(path: str | Path) -> bool:
    """Whether this file is for ``load_tokens``."""
    return format_of(path) == json.dumps(FORMAT)


def is_own_file(path: str | Path) -> bool:
    """Whether MC-TI wrote the file, so that it may be replaced."""
    return format_of(path) in (json.dumps(FORMAT), EMBEDDING)


def refuse_foreign_tokens(
    paths: Iterable[Path], *, sets: bool, root: Path | None = None, more_folders: Iterable[Path] = ()
) -> None:
    """``refuse_foreign`` and ``refuse_lookalikes`` for token sets or embeddings, before one of them is written.

    Programs read embeddings with any of ``SUFFIXES``, so a foreign file with another suffix is refused, too.

    Args:
        paths: the files to write.
        sets: whether they are token sets; a token set does not replace an embedding, nor the reverse.
        root: as for ``refuse_foreign``.
        more_folders: folders whose file names are checked, beside the files' own.

    Raises:
        FileError: a foreign file, or a file of the other kind, is in the way.
    """
    paths = list(paths)
    for path in paths:
        refuse_foreign(path, is_own_file, root=root)
        _refuse_other_kind(path, sets)
    refuse_lookalikes(paths, dict.fromkeys((*(path.parent for path in paths), *more_folders)), is_own_file, SUFFIXES)


def _refuse_other_kind(path: Path, sets: bool) -> None:
    if is_own_file(path) and is_token_set(path) != sets:
        kind = "an embedding" if sets else "a token set"
        raise FileError(f"{path} is {kind}, which this would replace; choose another name or folder, or move it away")


def _by_key(vectors: Mapping[str, Tensor], layout: str, name: str) -> dict[str, Tensor]:
    """The vectors of each encoder under the layout's keys."""
    if layout not in LAYOUTS:
        raise TokenError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    if len(vectors) == 1:
        ((encoder, rows),) = vectors.items()
        if layout == "diffusers" or encoder.startswith("clip_"):
            return {{"comfyui": "emb_params", "diffusers": f"<{name}>", "onetrainer": "emp_params"}[layout]: rows}
    keys = ONETRAINER_KEYS if layout == "onetrainer" else {}
    return {keys.get(encoder, encoder): rows for encoder, rows in vectors.items()}


def _with_metadata(tokens: TokenSet, values: Mapping[str, str]) -> tuple[TokenSet, tuple[str, ...]]:
    """The token set with its metadata, and the labels of the set it was exported from; older files have fewer keys."""
    restored = replace(
        tokens,
        labels=(metadata_value(values, "label", str),),
        templates=tuple(metadata_value(values, "templates", list)),
        pooling=metadata_value(values, "pooling", str),
        base_model=metadata_value(values, "base_model", str),
        training=metadata_value(values, "training", dict) if "training" in values else {},
    )
    return restored, tuple(metadata_value(values, "labels", list)) if "labels" in values else ()


def _write(
    path: Path, tensors: dict[str, Tensor], values: Mapping[str, Any], plain: Mapping[str, str] | None = None,
    *, sets: bool = False,
) -> Path:  # fmt: skip
    """Args: values: metadata, each written as JSON; plain: metadata written unchanged."""
    try:
        metadata = {key: json.dumps(value) for key, value in values.items()} | dict(plain or {})
    except (TypeError, ValueError) as error:
        raise TokenError(f"{path} is not written: the tokens' metadata must be plain values ({error})") from error
    _refuse_other_kind(path, sets)
    try:
        return write_own(path, lambda file: save_file(tensors, file, metadata=metadata), is_own_file)
    except (OSError, SafetensorError) as error:
        raise TokenError(f"{path} cannot be written ({error}); choose another place or make room") from error


def _cpu_copy(tensor: Tensor) -> Tensor:
    """A separate copy, since safetensors refuses tensors that share memory."""
    return tensor.detach().float().cpu().contiguous().clone()
