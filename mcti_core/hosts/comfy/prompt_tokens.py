"""Use tokens in memory in ComfyUI's own prompts: ``embedding:<name>`` in any node that encodes text.

ComfyUI reads embeddings from files. So the tokens are written to a folder in ComfyUI's temporary directory, and copies of the
tokenizers also search there. A token's name in a prompt is replaced by its file's name, which every version reads correctly.
An unknown name that is close to a token's is logged, since ComfyUI would ignore it.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors.torch import save_file
from torch import Tensor

from ...errors import TokenError, listed
from ...escaping import escaped
from ...files.limits import MAX_MARKS, has_many_marks
from ...files.writing import write_atomically
from ...tokens.encoders import CLIP_FOR_CLASSIFYING, describe_encoders
from ...tokens.names import index_of
from ...tokens.references import EMBEDDING, LOOSE_WEIGHT, SUFFIXES, known_forms, names_as_words, nearest, reference_at
from ...tokens.token_set import TokenSet
from .text import text_encoders, tokenizer_attributes

__all__ = ["clip_with_tokens"]

_FILE_PREFIX = "mcti-"
_MAX_COMPARED_NAMES = 20
_NAMELESS = re.compile(r"embedding:(?=\s*(?:embedding:|[:()]|$))")
"""A prefix without a name, for which ComfyUI raises an IndexError."""
_LOG = logging.getLogger(__name__)


def clip_with_tokens(clip: Any, tokens: TokenSet) -> Any:
    """A CLIP on the same weights whose tokenizers know the tokens; the given CLIP does not change.

    In prompts a token may be given by its name or its class's label, in any case and Unicode normal form, also in quotes or
    with a file suffix. Other names are searched where the given CLIP searches: in ComfyUI's embeddings folder, or among tokens added
    before. If two sets share a name, the set added last is used, and a warning lists these names.

    Raises:
        TokenError: the tokens are for other text encoders.
    """
    encoders = text_encoders(clip, clip.patcher.load_device)
    token_widths = {name: vectors.shape[-1] for name, vectors in tokens.vectors.items() if name != CLIP_FOR_CLASSIFYING}
    clip_widths = {name: encoder.width for name, encoder in encoders.items()}
    if token_widths != clip_widths:
        such_as = f", such as {listed([tokens.base_model])}" if tokens.base_model else ""
        raise TokenError(
            f"the tokens are for {describe_encoders(token_widths)}, the CLIP connected here has {describe_encoders(clip_widths)}; connect the "
            f"CLIP of a checkpoint of their family{such_as}"
        )
    files = _TokenFiles(tokens)
    attributes = [name for key, name in tokenizer_attributes(clip.tokenizer).items() if key in tokens.vectors]
    _warn_replaced(tokens, getattr(getattr(clip.tokenizer, attributes[0]), "mcti_files", ()), clip_widths)
    copied_clip = clip.clone()
    copied_clip.tokenizer = copy.copy(clip.tokenizer)
    for attribute in attributes:
        tokenizer = copy.copy(getattr(clip.tokenizer, attribute))
        if not isinstance(tokenizer, _TokenizerWithTokens):
            tokenizer.__class__ = type(type(tokenizer).__name__, (_TokenizerWithTokens, type(tokenizer)), {})
        tokenizer.mcti_files, tokenizer.mcti_warns = (files, *tokenizer.mcti_files), attribute == attributes[0]
        before = tokenizer.embedding_directory or []
        tokenizer.embedding_directory = [str(files.folder), *([before] if isinstance(before, str) else before)]
        setattr(copied_clip.tokenizer, attribute, tokenizer)
    return copied_clip


def _warn_replaced(tokens: TokenSet, earlier: Sequence[_TokenFiles], encoders: Iterable[str]) -> None:
    """Warn about tokens that an earlier set has under the same name with other vectors."""
    replaced = [
        f"embedding:{name}"
        for index, name in enumerate(tokens.names)
        for files in earlier
        if (same := index_of(name, files.tokens.names)) is not None
        and any(not torch.equal(tokens.vectors[e][index], files.tokens.vectors[e][same]) for e in encoders)
    ]
    if replaced:
        _LOG.warning(
            "MC-TI: two sets have the tokens %s; prompts use those of the set that was loaded last, so rename one of the two",
            escaped(listed(list(dict.fromkeys(replaced)))),
        )


class _TokenFiles:
    """An embedding file for every token of a set, written when a prompt first refers to it.

    The folder's name is a hash of the tokens: equal tokens are written once, and files never change. ComfyUI empties its
    temporary directory when it starts and when it exits.
    """

    def __init__(self, tokens: TokenSet):
        self.tokens = tokens
        self.known = known_forms(tokens.labels, tokens.names)
        digest = hashlib.sha256()
        for name, vectors in sorted(tokens.vectors.items()):
            digest.update(f"{name}:{tuple(vectors.shape)}".encode())
            digest.update(vectors.detach().float().cpu().contiguous().numpy().tobytes())
        self._id = digest.hexdigest()[:16]
        self.folder = Path(folder_paths.get_temp_directory()) / f"{_FILE_PREFIX}tokens-{self._id}"

    def with_file_names(self, text: str, warns: bool) -> str:
        """The prompt with each token's name replaced by its file's name between spaces."""
        parts, done = [], 0
        for found in EMBEDDING.finditer(text):
            reference = reference_at(text, found.end(), self.tokens.labels, self.tokens.names, self.known)
            if reference.class_index is None or found.start() < done:
                continue
            parts.append(text[done : found.start()])
            before, behind = text[found.start() - 1 : found.start()], text[reference.end : reference.end + 1]
            file = f"embedding:{self._file(reference.class_index)}"
            parts.append(f"{' ' if before.strip() else ''}{file}{' ' if behind.strip() else ''}")
            done = reference.end
            if warns and LOOSE_WEIGHT.match(text, done):
                name = self.tokens.names[reference.class_index]
                _LOG.warning(
                    "a prompt has a weight after embedding:%s without brackets; write (embedding:%s:1.2)", name, name
                )
        return "".join(parts) + text[done:]

    def _file(self, token: int) -> str:
        """The name of the token's file without the suffix; writes the file if necessary."""
        name = f"{_FILE_PREFIX}{self._id}-{token}"
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            vectors = {key: v[token].detach().float().contiguous() for key, v in self.tokens.vectors.items()}
            write_atomically(path, lambda temporary: save_file(vectors, temporary))
        return name


class _TokenizerWithTokens:
    """A tokenizer of ComfyUI with sets of tokens; the set added last takes precedence."""

    mcti_files: tuple[_TokenFiles, ...] = ()
    mcti_warns = False
    """Whether it warns about unknown names; only one tokenizer of a CLIP does."""
    embedding_directory: list[str]

    def tokenize_with_weights(self, text: str, *arguments: Any, **options: Any) -> Any:
        if has_many_marks(text):
            raise TokenError(f"a prompt puts more than {MAX_MARKS} combining marks on one letter; shorten it")
        if EMBEDDING.search(text):
            text = unicodedata.normalize("NFC", text)  # as CLIP's tokenizers do anyway
            for files in self.mcti_files:
                text = files.with_file_names(text, self.mcti_warns)
            text = _NAMELESS.sub("", text)
        if self.mcti_warns:
            self._warn_about_unresolved_names(text)
        rows = super().tokenize_with_weights(text, *arguments, **options)  # type: ignore[misc]
        return [
            [(e[0].as_subclass(_Vector) if isinstance(e[0], Tensor) else e[0], *e[1:]) for e in row] for row in rows
        ]

    def _warn_about_unresolved_names(self, text: str) -> None:
        """Warn about unknown names that are close to a token's, and names without ``embedding:``."""
        no_forms = known_forms((), ())
        names = (reference_at(text, found.end(), (), (), no_forms).name for found in EMBEDDING.finditer(text))
        for name in islice(dict.fromkeys(names), _MAX_COMPARED_NAMES):
            near = ((files, nearest(name, files.known)) for files in self.mcti_files)
            suggestion = next((files.tokens.names[index] for files, index in near if index is not None), None)
            if suggestion is not None and not _is_file(name, self.embedding_directory):
                _LOG.warning(
                    "a prompt names embedding:%s, which is neither a token nor a file, and is ignored; did you mean embedding:%s?",
                    escaped(name), suggestion,
                )  # fmt: skip

        for files in self.mcti_files:
            for name in dict.fromkeys(files.tokens.names[index] for _, index in names_as_words(text, files.known)):
                _LOG.warning("a prompt contains %s as words; write embedding:%s for the learned token", name, name)


class _Vector(Tensor):
    """A vector in a row of tokens that is unequal to every token: some of ComfyUI's tokenizers, such as Qwen-Image's, compare all
    entries of a row with a number."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment] # operations on it return plain tensors

    def __eq__(self, other: object) -> Any:
        return super().__eq__(other) if isinstance(other, Tensor) else False  # type: ignore[no-untyped-call]

    __hash__ = Tensor.__hash__


def _is_file(name: str, folders: list[str]) -> bool:
    """Whether ComfyUI finds an embedding file with this name. Each folder is looked into once, since links may lead back to it."""
    visited = set[str]()
    for root in folders:
        for folder, inner, _ in os.walk(root, followlinks=True):
            if (real := os.path.realpath(folder)) in visited:
                inner.clear()
            elif any(os.path.isfile(os.path.join(folder, name + suffix)) for suffix in ("", *SUFFIXES)):
                return True
            visited.add(real)
    return False
