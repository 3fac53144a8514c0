"""Nodes that write and read tokens: Save Token Embeddings, Load Token Embeddings."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..mcti_core.errors import listed
from ..mcti_core.escaping import escaped
from ..mcti_core.files.limits import MAX_SET_BYTES
from ..mcti_core.files.regular import open_regular
from ..mcti_core.tokens.earlier_sets import refuse_other_sets, stale_embeddings
from ..mcti_core.tokens.io import SUFFIX, export_embeddings, refuse_foreign_tokens, save_tokens
from ..mcti_core.tokens.names import describe_words, safe_parts
from ..mcti_core.tokens.token_set import TokenSet
from .checking import Node, checked_text
from .context import user_errors
from .folders import token_set_path, token_set_root
from .schema import node_schema
from .token_choices import FOLDER, choices, embedding_roots, files_of, read_choice
from .types import TokensType

__all__ = ["LoadTokens", "SaveTokens"]

_SET, _EMBEDDINGS, _BOTH = "token set", "embeddings", "both"


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
            outputs=[io.String.Output("paths"), io.String.Output("summary")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, tokens: TokenSet, name: str, format: str, folder: str) -> io.NodeOutput:
        set_paths = [token_set_path(name, SUFFIX)] if format != _EMBEDDINGS else []
        roots, subfolder = embedding_roots(), safe_parts(folder) if format != _SET and folder.strip() else []
        embedding_folder = roots[0].joinpath(*subfolder) if format != _SET else None
        embedding_paths = [] if embedding_folder is None else [embedding_folder / f"{t}{SUFFIX}" for t in tokens.names]
        # check all before anything is written
        refuse_foreign_tokens(set_paths, sets=True, root=token_set_root())
        if embedding_paths:
            # ComfyUI finds an embedding without a folder's name in any folder
            folders = [root.joinpath(*subfolder) for root in roots]
            if not subfolder:
                folders = [Path(path) for root in roots for path, _, _ in os.walk(root, followlinks=False)]
            refuse_foreign_tokens(embedding_paths, sets=False, root=roots[0], more_folders=folders)
        refuse_other_sets([*set_paths, *embedding_paths], tokens)
        written = [save_tokens(tokens, path) for path in set_paths]
        written += [] if embedding_folder is None else export_embeddings(tokens, embedding_folder)
        others = stale_embeddings(embedding_folder, tokens.names) if embedding_folder is not None and subfolder else []
        summary = _summary(tokens, set_paths, embedding_folder, others)
        logging.info("MC-TI: %s", summary)
        return io.NodeOutput("\n".join(map(str, written)), summary)


class LoadTokens(Node):
    LOOKED_UP = frozenset({"file"})

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_LoadTokens",
            search_aliases=["load embedding", "textual inversion", "import embedding"],
            inputs=[io.Combo.Input("file", options=choices()), io.Clip.Input("clip")],
            outputs=[TokensType.Output("tokens"), io.Clip.Output("clip_with_tokens"), io.String.Output("names")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **others: Any) -> Any:
        """Changes with the file, so that ComfyUI reads it again; always for a name through a link."""
        if file is None:
            return math.nan
        digest = hashlib.sha256(file.encode("utf-8", "surrogatepass"))
        with user_errors():
            paths = files_of(checked_text("file", file))
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
        from ..mcti_core.hosts.comfy.prompt_tokens import clip_with_tokens

        tokens = read_choice(file)
        return io.NodeOutput(tokens, clip_with_tokens(clip, tokens), "\n".join(tokens.names))


def _summary(tokens: TokenSet, set_paths: list[Path], folder: Path | None, others: list[str]) -> str:
    parts = [f"{len(tokens)} classes in the token set {path.name}" for path in set_paths]
    parts += [f"{len(tokens)} embeddings for prompts in {folder.name}"] if folder is not None else []
    remedy = "for those programs rename the file, as in my-cat.safetensors"
    words = describe_words(tokens.names, remedy) if folder is not None else ""
    lines = [escaped(", ".join(parts)), words]
    if folder is not None and others:
        lines.append(
            f"{escaped(folder.name)} also contains embeddings of another set: {escaped(listed(others))}; move them away, since "
            f"{FOLDER}{escaped(folder.name)} loads all of them"
        )
    return "\n".join(filter(None, lines))
