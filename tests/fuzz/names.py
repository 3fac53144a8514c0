"""Laws of names: of tokens, of folders, and in messages."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from random import Random

import torch

from mcti_core.errors import MCTIError
from mcti_core.escaping import escaped
from mcti_core.tokens.io import export_embeddings, save_tokens
from mcti_core.tokens.names import check_name, safe_names, safe_parts
from mcti_core.tokens.token_set import TokenSet

from .mutations import TEXTS
from .seeds import token_set
from .settings import Broken

__all__ = ["any_names"]

_PIECES = (
    *TEXTS, "..", ".", "/", "\\", "NUL", "com1", "LPT9", "aux.safetensors", "~", "C:", "\u2215", "\uff0e\uff0e", "a" * 300,
)  # fmt: skip


def any_names(random: Random, out: Path) -> None:
    """Names of a graph, and folders' names: whatever they are, files stay where they belong."""
    name = "".join(random.choice(_PIECES) for _ in range(random.randrange(1, 6)))
    parts = safe_parts(name)
    for part in parts:
        _plain_name(part)
    labels = [random.choice(_PIECES) for _ in range(5)]
    names = safe_names(labels)
    if len({each.casefold() for each in names}) != len(labels):
        raise Broken(f"{labels} become {names}")
    for each in names:
        _plain_name(each)
        check_name(each)
    _given_names(random, out)
    if sum(map(len, parts)) < 1000:
        save_tokens(token_set(), out.joinpath(*parts))


def _given_names(random: Random, out: Path) -> None:
    """Names as a file gives them: taken as they are or refused, and what is said of them is one line."""
    names = tuple("".join(random.choice(_PIECES) for _ in range(random.randrange(1, 3))) for _ in range(2))
    try:
        tokens = TokenSet(("a", "b"), {"clip_l": torch.ones(2, 1, 4)}, names)
    except MCTIError as error:
        if escaped(str(error)) != str(error) or len(str(error)) > 1000:
            raise Broken(f"said of {names}: {str(error)!r}") from error
    else:
        for name in tokens.names:
            _plain_name(name)
        export_embeddings(tokens, out / "named")
    shown = escaped("".join(random.choice(_PIECES) for _ in range(9)))
    if shown.splitlines() not in ([shown], []) or any(
        unicodedata.category(c) in ("Cc", "Cs") or c in "\u202e\u2066" for c in shown
    ):
        raise Broken(f"shown: {shown!r}")


def _plain_name(name: str) -> None:
    devices = {"CON", "PRN", "AUX", "NUL", *(p + n for p in ("COM", "LPT") for n in "123456789¹²³")}
    wrong = not name or name != name.strip(" .") or len(name.encode()) > 120 or name.split(".")[0].upper() in devices
    if wrong or any(unicodedata.category(c)[0] in "CZ" or c in '/\\:*?"<>|%~' for c in name):
        raise Broken(f"{name!r} is no file's name everywhere")
