"""Tokens in memory for the host's own prompts: ``embedding:<name>`` in any node that encodes text."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import TokenError
from ...tokens import TokenSet
from .text import text_encoders

__all__ = ["clip_with_tokens"]

_REFERENCE = re.compile(r"([\w-]+)(.*)", re.DOTALL)
"""A name as ``safe_names`` makes them, and what follows: a comma, a full stop, or more of the prompt."""


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
    knowing = clip.clone()
    knowing.tokenizer = copy.copy(clip.tokenizer)
    for name, vectors in tokens.vectors.items():
        table = {token.casefold(): vector for token, vector in zip(tokens.names, vectors, strict=True)}
        setattr(knowing.tokenizer, name, _knowing(getattr(clip.tokenizer, name), table))
    return knowing


def _knowing(tokenizer: Any, table: Mapping[str, Tensor]) -> Any:
    copied = copy.copy(tokenizer)
    before = copied._try_get_embedding

    def look_up(text: str) -> tuple[Tensor | None, str]:
        """The vectors (V, d) that a reference names, and the text behind it."""
        found = _REFERENCE.match(text)
        if found is None or found[1].casefold() not in table:
            return before(text)
        return table[found[1].casefold()].clone(), found[2].strip(" ")

    copied._try_get_embedding = look_up
    if copied.embedding_directory is None:
        copied.embedding_directory = []  # or the host would not look for embeddings at all
    return copied


def _widths(encoders: Mapping[str, int]) -> str:
    return " and ".join(f"{name}, {width} wide" for name, width in encoders.items())
