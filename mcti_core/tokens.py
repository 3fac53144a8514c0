"""Learned tokens: a set of classes, each with a few vectors for each text encoder."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .errors import TokenError
from .limits import check_counts
from .names import DEVICES, check_name
from .normal_form import normal_form
from .templates import OBJECT_TEMPLATES

__all__ = ["POOLINGS", "UNKNOWN", "Support", "TokenSet", "initial_vectors", "safe_names", "safe_parts"]

POOLINGS = ("eot", "token")
"""Where a prompt's text feature is read: at end-of-text, or at the token's last vector."""

UNKNOWN = "(unknown)"
"""The label of an answer that is none of the classes; no class can be called so."""
_NAME_BYTES = 96
_MAX_LEVELS = 8


@dataclass(frozen=True)
class Support:
    """CLIP features of the examples the tokens were learned from, for the hybrid classifier and for calibration."""

    features: Tensor
    """(N, p) float32 of unit length."""
    labels: Tensor
    """(N,) int64 class of each."""

    def of_width(self, width: int) -> Support:
        """Itself, where image features are p = ``width`` wide.

        Raises:
            TokenError: they are of another CLIP space.
        """
        own = self.features.shape[1]
        if own != width:
            raise TokenError(
                f"the tokens' example features are {own} wide, this CLIP space's are {width}; use the CLIP model that the tokens were trained with"
            )
        return self


@dataclass(frozen=True)
class TokenSet:
    """C classes, each with V vectors of width d for each text encoder.

    Args:
        labels: (C,) the user's own names, any Unicode, in label order.
        vectors: encoder name -> (C, V, d) float32 on the CPU. The same C and V for all encoders.
        names: (C,) the names tokens go by in prompts and files, each safe (``names.check_name``); made from the labels when
            not given.
        templates: prompts the tokens were trained in, each with one ``{}``.
        pooling: ``"eot"`` or ``"token"``, where the text feature was read in training; reading elsewhere breaks them.
        base_model: what they were trained on, for people.
        training: the settings they were trained with, for people and for the file.
        support: features of the examples, where a CLIP space was at hand.

    Raises:
        TokenError: no class, more than ``limits.py`` allows, or one called ``UNKNOWN``; names not safe or not unique; shapes
            that disagree; vectors that are not finite.
    """

    labels: tuple[str, ...]
    vectors: Mapping[str, Tensor]
    names: tuple[str, ...] = ()
    templates: tuple[str, ...] = OBJECT_TEMPLATES
    pooling: str = "eot"
    base_model: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    support: Support | None = None

    def __post_init__(self) -> None:
        check_counts(self.labels, self.templates)
        object.__setattr__(self, "names", tuple(self.names) or safe_names(self.labels))
        if not self.labels:
            raise TokenError("a token set needs at least one class")
        if UNKNOWN in map(normal_form, self.labels):
            raise TokenError(f"a class is called {UNKNOWN!r}, which is the answer for images of no class; rename it")
        for name in self.names:
            check_name(name)
        if len(self.names) != len(self.labels) or len(set(map(normal_form, self.names))) != len(self.names):
            raise TokenError(
                f"token names must be one a class and differ also in lower case, got {list(self.names)!s:.300}"
            )
        if not self.vectors:
            raise TokenError("a token set needs vectors for at least one text encoder")
        if self.pooling not in POOLINGS:
            raise TokenError(f"pooling {self.pooling!r} is not one of {', '.join(POOLINGS)}")
        counts = {tuple(vectors.shape[:2]) for vectors in self.vectors.values()}
        if len(counts) != 1 or counts.pop()[0] != len(self.labels) or any(v.ndim != 3 for v in self.vectors.values()):
            shapes = {name: tuple(vectors.shape) for name, vectors in self.vectors.items()}
            raise TokenError(
                f"vectors must be (classes, vectors, width) with {len(self.labels)} classes and equal counts, got {shapes}"
            )
        if not all(vectors.isfinite().all() for vectors in self.vectors.values()):
            raise TokenError("token vectors must be finite numbers")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def vectors_per_token(self) -> int:
        """V."""
        return next(iter(self.vectors.values())).shape[1]

    def with_vectors(self, vectors: Mapping[str, Tensor]) -> TokenSet:
        """The same classes with other vectors (detached, float32, on the CPU)."""
        return replace(self, vectors={name: v.detach().float().cpu().clone() for name, v in vectors.items()})

    def select(self, classes: Sequence[int]) -> TokenSet:
        """The classes at these indices, in this order. Their support features go with them."""
        index = torch.as_tensor(list(classes), dtype=torch.long)
        support = None
        if self.support is not None:
            renumbered = torch.full((len(self),), -1).scatter(0, index, torch.arange(len(index)))[self.support.labels]
            support = Support(self.support.features[renumbered >= 0], renumbered[renumbered >= 0])
        return replace(
            self,
            labels=tuple(self.labels[i] for i in classes),
            names=tuple(self.names[i] for i in classes),
            vectors={name: v[index] for name, v in self.vectors.items()},
            support=support,
        )


def safe_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Names that prompt parsers and file systems take: letters, digits and ``-``, unique also in lower case.

    >>> safe_names(["my cat", "My (cat)", "猫", "!"])
    ('my-cat', 'My-cat-2', '猫', 'exclamation-mark')
    """
    taken: set[str] = set()
    counts: dict[str, int] = {}
    names = []
    for label in labels:
        cleaned = name = _cleaned(label)
        while normal_form(name) in taken:
            counts[cleaned] = counts.get(cleaned, 1) + 1
            name = f"{cleaned}-{counts[cleaned]}"
        taken.add(normal_form(name))
        names.append(name)
    return tuple(names)


def safe_parts(name: str) -> list[str]:
    """Folders and file that a name with slashes stands for, each a plain name: none of them leads up or out.

    Raises:
        TokenError: nothing of it can be a name, or it has more than ``_MAX_LEVELS`` parts.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part.strip(". ")]
    if not parts:
        raise TokenError(f"the name {name!r:.200} cannot be a file's; use letters and digits")
    if len(parts) > _MAX_LEVELS:
        raise TokenError(
            f"the name holds {len(parts)} folders and files; at most {_MAX_LEVELS} are made in one another"
        )
    return [safe_names([part])[0] for part in parts]


def _cleaned(label: str) -> str:
    """Letters, their marks and digits, what lies between them as one ``-``; short enough for any file system."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in unicodedata.normalize("NFC", label))
    name = "-".join("".join(kept).split())
    if not any(unicodedata.category(c)[0] in "LN" for c in name):
        name = _spelled(label)
    name = _shortened(name.strip("-")) or "token"
    return f"{name}-token" if name.upper() in DEVICES else name


def _spelled(label: str) -> str:
    """A label without a letter by what Unicode calls its characters, so that two such labels have two names: 🐱 is cat-face."""
    shown = [c for c in label if not c.isspace() and unicodedata.category(c) not in ("Cf", "Mn")] or label.split()
    return "-".join(unicodedata.name(c, f"u{ord(c[0]):x}").lower().replace(" ", "-") for c in "".join(shown))


def _shortened(name: str) -> str:
    """Names that are cut keep a hash of what is lost, or two with one beginning would be the same."""
    if len(re.sub(r"-\d{1,7}$", "", name).encode()) <= _NAME_BYTES:  # the number of one that another class has
        return name
    lost = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: _NAME_BYTES - 9].decode(errors="ignore").strip("-") + f"-{lost}"


def initial_vectors(
    table: Tensor, classes: int, count: int, *, word: Sequence[int] = (), kind: str = "mean", seed: int = 0
) -> Tensor:
    """First vectors of a training.

    Args:
        table: (vocabulary, d) token embeddings.
        classes, count: C and V.
        word: token ids of a generic word ("object"): one id serves all V vectors, V ids one each.
        kind: without a word, ``"mean"`` of the vocabulary or ``"random"`` with its mean and deviation.
        seed: of the random ones.

    Returns:
        (C, V, d) float32 on the CPU.

    Raises:
        TokenError: no vectors are asked for; the word has neither one token nor V; ``kind`` is unknown.
    """
    if count < 1:
        raise TokenError(f"a token needs at least one vector, got {count}")
    table = table.detach().float().cpu()
    if len(word):
        if len(word) not in (1, count):
            raise TokenError(
                f"the initial word has {len(word)} tokens; use one that has 1 or, for {count} vectors, {count}"
            )
        rows = table[torch.tensor(list(word))]  # (1 or V, d)
        return rows.expand(classes, count, -1).clone()
    mean = table.mean(0)
    if kind == "mean":
        return mean.expand(classes, count, -1).clone()
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        return mean + table.std(0) * torch.randn(classes, count, table.shape[1], generator=generator)
    raise TokenError(f"initial vectors {kind!r} are not known; use a word, 'mean' or 'random'")
