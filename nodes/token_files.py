"""Nodes that write and read tokens: Save Token Embeddings, Load Token Embeddings."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..mcti_core.errors import TokenError
from ..mcti_core.escaping import escaped
from ..mcti_core.files.limits import MAX_SET_BYTES
from ..mcti_core.files.regular import open_regular
from ..mcti_core.tokens.clip_words import describe_words
from ..mcti_core.tokens.formats import SUFFIXES
from ..mcti_core.tokens.io import (
    SUFFIX,
    export_embeddings,
    import_embeddings,
    load_tokens,
    refuse_foreign_tokens,
    save_tokens,
)
from ..mcti_core.tokens.names import safe_parts
from ..mcti_core.tokens.token_set import TokenSet
from .checking import Node, checked_text
from .folders import TOKEN_SETS, token_set_path, token_set_root
from .running import plainly, working
from .schema import node_schema
from .types import TokensType

__all__ = ["LoadTokens", "SaveTokens"]

_SET, _EMBEDDINGS, _BOTH = "token set", "embeddings", "both"
_EMBEDDING, _FOLDER = "embedding: ", "embeddings in: "
"""Prefixes of choices in the list; token sets have no prefix."""


class SaveTokens(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_SaveTokens",
            search_aliases=["save embedding", "export embedding", "textual inversion"],
            inputs=[
                TokensType.Input("tokens"),
                io.String.Input("name", default="my-things"),
                io.Combo.Input("format", options=[_BOTH, _SET, _EMBEDDINGS], default=_BOTH),
                io.String.Input("folder", default=""),
            ],
            outputs=[
                io.String.Output("paths"),
                io.String.Output("summary"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, tokens: TokenSet, name: str, format: str, folder: str) -> io.NodeOutput:
        with working():
            whole = token_set_path(name, SUFFIX) if format != _EMBEDDINGS else None
            into = _embedding_folder(folder) if format != _SET else None
            if whole is not None:  # check all before anything is written
                refuse_foreign_tokens([whole], root=token_set_root())
            if into is not None:
                singles = (into / f"{token}{SUFFIX}" for token in tokens.names)
                refuse_foreign_tokens(singles, root=_embedding_roots()[0], twins=_looked_through(folder))
            written = [] if whole is None else [save_tokens(tokens, whole)]
            written += [] if into is None else export_embeddings(tokens, into)
            summary = _summary(tokens, whole, into)
            logging.info("MC-TI: %s", summary)
            return io.NodeOutput("\n".join(map(str, written)), summary)


class LoadTokens(Node):
    LOOKED_UP = frozenset({"file"})

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_LoadTokens",
            search_aliases=["load embedding", "textual inversion", "import embedding"],
            inputs=[
                io.Combo.Input("file", options=_choices()),
                io.Clip.Input("clip"),
            ],
            outputs=[
                TokensType.Output("tokens"),
                io.Clip.Output("clip_with_tokens"),
                io.String.Output("names"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **others: Any) -> Any:
        """Changes with the file, so that ComfyUI reads it again; always for a name through a link."""
        if file is None:
            return math.nan
        digest = hashlib.sha256(file.encode("utf-8", "surrogatepass"))
        with plainly():
            paths = _paths(checked_text("file", file))
        for path in paths:
            digest.update(path.name.encode("utf-8", "surrogatepass"))
            with suppress(OSError), open_regular(path) as content:  # execute reports the problem
                if os.fstat(content.fileno()).st_size > MAX_SET_BYTES:  # execute refuses it
                    continue
                while block := content.read(2**20):
                    digest.update(block)
        return digest.hexdigest()

    @classmethod
    def execute(cls, file: str, clip: Any) -> io.NodeOutput:
        from ..mcti_core.hosts.comfy.host import clip_with_tokens

        with working():
            paths = _paths(file)
            from_embeddings = file.startswith((_EMBEDDING, _FOLDER))
            tokens = import_embeddings(paths) if from_embeddings else load_tokens(paths[0])
            return io.NodeOutput(tokens, clip_with_tokens(clip, tokens), "\n".join(tokens.names))


def _summary(tokens: TokenSet, whole: Path | None, into: Path | None) -> str:
    parts = [f"{len(tokens)} classes in the token set {whole.name}"] if whole is not None else []
    parts += [f"{len(tokens)} embeddings for prompts in {into.name}"] if into is not None else []
    remedy = "for those programs rename the file, as in my-cat.safetensors"
    words = describe_words(tokens.names, remedy) if into is not None else ""
    return escaped(", ".join(parts)) + (f"\n{words}" if words else "")


def _choices() -> list[str]:
    embeddings = _embeddings()
    folders = sorted({Path(name).parent.as_posix() for name in embeddings} - {"."})
    sets = [name for name in folder_paths.get_filename_list(TOKEN_SETS) if name.endswith(SUFFIX)]
    return [*sets, *(_FOLDER + folder for folder in folders), *(_EMBEDDING + name for name in embeddings)]


def _embeddings() -> list[str]:
    return [name for name in folder_paths.get_filename_list("embeddings") if name.lower().endswith(SUFFIXES)]


def _paths(choice: str) -> list[Path]:
    """The files of a choice; ComfyUI's own lookup keeps them inside its folders."""
    if choice.startswith(_FOLDER):
        folder = choice.removeprefix(_FOLDER)
        names = [name for name in _embeddings() if Path(name).parent.as_posix() == folder]
        found = [folder_paths.get_full_path("embeddings", name) for name in names]
    elif choice.startswith(_EMBEDDING):
        found = [folder_paths.get_full_path("embeddings", choice.removeprefix(_EMBEDDING))]
    else:
        found = [folder_paths.get_full_path(TOKEN_SETS, choice)]
    paths = [Path(path) for path in found if path is not None]
    if not paths:
        raise TokenError(f"the tokens {choice!r} no longer exist; choose others, or save them again")
    return paths


def _embedding_folder(folder: str) -> Path:
    root = _embedding_roots()[0]
    return root.joinpath(*safe_parts(folder)) if folder.strip() else root


def _embedding_roots() -> list[Path]:
    return [Path(path) for path in folder_paths.get_folder_paths("embeddings")]


def _looked_through(folder: str) -> list[Path]:
    """Folders in which ComfyUI could find another embedding with the same name: all of them, for a name without a folder."""
    if folder.strip():
        return [root.joinpath(*safe_parts(folder)) for root in _embedding_roots()]
    return [Path(path) for root in _embedding_roots() for path, _, _ in os.walk(root, followlinks=False)]
