"""Tokens in memory for the host's own prompts: ``embedding:<name>`` in any node that encodes text.

The host reads embeddings from files. So the tokens become files in a folder of the host's temporary directory, and copies of
the tokenizers look there too. What a prompt calls a token is replaced by the name of its file, which no host misreads.
"""

from __future__ import annotations

import copy
import hashlib
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths
from safetensors.torch import save_file

from ...atomic import write_atomically
from ...errors import TokenError
from ...tokens import TokenSet
from .text import text_encoders

__all__ = ["clip_with_tokens"]

_REFERENCE = re.compile(r"embedding:([^\s,:;()\[\]{}<>\\]+)", re.IGNORECASE)
"""``embedding:`` and what may be a name, perhaps with more of the prompt behind it."""
_SUFFIXES = (".safetensors", ".pt", ".bin")
"""Which the host accepts behind a file's name."""


def clip_with_tokens(clip: Any, tokens: TokenSet) -> Any:
    """A CLIP on the same weights whose tokenizers know the tokens; the one given does not change.

    Names are matched in any case. A name that is not of the set is looked for where the given CLIP looks: in the host's
    embeddings folder, or among tokens added before.

    Raises:
        TokenError: the tokens are for other text encoders.
    """
    encoders = text_encoders(clip, clip.patcher.load_device)
    ours = {name: vectors.shape[-1] for name, vectors in tokens.vectors.items()}
    theirs = {name: encoder.width for name, encoder in encoders.items()}
    if ours != theirs:
        raise TokenError(f"the tokens are for {_widths(ours)}, the CLIP connected here has {_widths(theirs)}")
    files = _TokenFiles(tokens)
    knowing = clip.clone()
    knowing.tokenizer = copy.copy(clip.tokenizer)
    for name in tokens.vectors:
        setattr(knowing.tokenizer, name, _knowing(getattr(clip.tokenizer, name), files))
    return knowing


class _TokenFiles:
    """An embedding file for every token of a set, written when a prompt first refers to it.

    The folder is named by the tokens' content: the same tokens are written once, and nothing ever changes in a file. The
    host empties its temporary directory when it starts and when it ends.
    """

    def __init__(self, tokens: TokenSet):
        self._tokens = tokens
        self._index = {_folded(name): i for i, name in enumerate(tokens.names)}
        digest = hashlib.sha256()
        for name, vectors in sorted(tokens.vectors.items()):
            digest.update(f"{name}:{tuple(vectors.shape)}".encode())
            digest.update(vectors.detach().float().cpu().contiguous().numpy().tobytes())
        self._id = digest.hexdigest()[:16]
        self.folder = Path(folder_paths.get_temp_directory()) / f"mcti-tokens-{self._id}"

    def referred(self, text: str) -> str:
        """A prompt with the name of a file, and room around it, wherever a token of the set is named."""
        if "embedding:" not in text.lower():
            return text
        text = unicodedata.normalize("NFC", text)  # as CLIP's tokenizers do anyway
        parts, done = [], 0
        for found in _REFERENCE.finditer(text):
            length, token = self._longest(found[1])
            if token is None:
                continue
            begin, end = found.start(), found.start(1) + length
            parts.append(text[done:begin])
            before, behind = text[begin - 1 : begin], text[end : end + 1]
            reference = f"embedding:{self._file(token)}"
            parts.append(f"{' ' if before.strip() else ''}{reference}{' ' if behind.strip() else ''}")
            done = end
        return "".join(parts) + text[done:]

    def _longest(self, candidate: str) -> tuple[int, int | None]:
        """How much of the candidate names a token, and which one."""
        length = len(candidate)
        while length:
            token = self._index.get(_folded(candidate[:length]))
            if token is not None and (length == len(candidate) or not _is_of_a_name(candidate[length])):
                suffix = next((s for s in _SUFFIXES if candidate[length:].lower() == s), "")
                return length + len(suffix), token
            length -= 1
        return 0, None

    def _file(self, token: int) -> str:
        """Its name without the suffix; the file is there afterwards."""
        name = f"mcti-{self._id}-{token}"
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            vectors = {key: v[token].detach().float().contiguous() for key, v in self._tokens.vectors.items()}
            write_atomically(path, lambda temporary: save_file(vectors, temporary))
        return name


def _knowing(tokenizer: Any, files: _TokenFiles) -> Any:
    copied = copy.copy(tokenizer)
    if not isinstance(copied, _Knowing):
        copied.__class__ = type(type(tokenizer).__name__, (_Knowing, type(tokenizer)), {})
    copied.mcti_files = (files, *copied.mcti_files)
    before = copied.embedding_directory or []
    copied.embedding_directory = [str(files.folder), *([before] if isinstance(before, str) else before)]
    return copied


class _Knowing:
    """A tokenizer of the host that knows sets of tokens, the set that was added last first."""

    mcti_files: tuple[_TokenFiles, ...] = ()

    def tokenize_with_weights(self, text: str, *arguments: Any, **options: Any) -> Any:
        for files in self.mcti_files:
            text = files.referred(text)
        return super().tokenize_with_weights(text, *arguments, **options)  # type: ignore[misc]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def _is_of_a_name(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or character in "-_"


def _widths(encoders: Mapping[str, int]) -> str:
    return " and ".join(f"{name}, {width} wide" for name, width in encoders.items())
