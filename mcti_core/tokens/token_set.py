"""Learned tokens: a set of classes, each with a few vectors per text encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import TokenError
from ..files.limits import check_counts
from ..templates import OBJECT_TEMPLATES
from .hub import HubMethods
from .names import check_name, normal_form, safe_names

__all__ = ["POOLINGS", "UNKNOWN", "Support", "TokenSet"]

POOLINGS = ("eot", "token")
"""Where a prompt's text feature is read: at end-of-text, or at the token's last vector."""

UNKNOWN = "(unknown)"
"""The label for images of none of the classes; reserved, no class can have it."""


@dataclass(frozen=True)
class Support:
    """CLIP features of the examples, for the hybrid classifier and for calibration."""

    features: Tensor
    """(N, p) float32 of unit length."""
    labels: Tensor
    """(N,) int64 class of each example."""

    def of_width(self, width: int) -> Support:
        """Return self if p equals ``width``. Raises: TokenError: the features are from another CLIP space."""
        if (own := self.features.shape[1]) != width:
            widths = f"the tokens' example features are {own} wide, this CLIP space's are {width}"
            raise TokenError(f"{widths}; use the CLIP model that the tokens were trained with")
        return self


@dataclass(frozen=True)
class TokenSet(HubMethods):
    """C classes, each with V vectors of width d per text encoder.

    Args:
        labels: (C,) the user's own labels, any Unicode, in label order.
        vectors: text encoder by ComfyUI's embedding key -> (C, V, d) float32 on the CPU. The same C and V for all encoders.
        names: (C,) the tokens' names in prompts and files, each safe (``tokens.names.check_name``); made from the labels by
            default.
        templates: prompts that the tokens were trained in, each with one ``{}``.
        pooling: ``"eot"`` or ``"token"``, where the text feature was read in training; reading it elsewhere makes the tokens useless.
        base_model: the model that they were trained on, for information.
        training: the training settings, for information and for the file.
        support: features of the examples, if training had a CLIP space.

    Raises:
        TokenError: no class, more classes than ``files/limits.py`` allows, or a class called ``UNKNOWN``; names that are not safe or
            not unique; text encoders' names that are not plain; shapes that disagree; vectors that are not finite.
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
            raise TokenError(f"one token name per class is needed, unique in lower case, got {list(self.names)!s:.300}")
        if not self.vectors:
            raise TokenError("a token set needs vectors for at least one text encoder")
        if not all(re.fullmatch(r"(?!__)[A-Za-z0-9_]{1,40}", encoder) for encoder in self.vectors):  # keys of a file
            raise TokenError(f"text encoders are named by letters, digits and _, got {list(self.vectors)!s:.300}")
        if self.pooling not in POOLINGS:
            raise TokenError(f"pooling {self.pooling!r} is not one of {', '.join(POOLINGS)}")
        counts = {tuple(vectors.shape[:2]) for vectors in self.vectors.values()}
        if len(counts) != 1 or counts.pop()[0] != len(self.labels) or any(v.ndim != 3 for v in self.vectors.values()):
            shapes = {name: tuple(vectors.shape) for name, vectors in self.vectors.items()}
            raise TokenError(f"vectors must be ({len(self)} classes, vectors, width), equal for all, got {shapes}")
        if not all(vectors.isfinite().all() for vectors in self.vectors.values()):
            raise TokenError("token vectors must be finite numbers")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def vectors_per_token(self) -> int:
        """V, the number of vectors per class."""
        return next(iter(self.vectors.values())).shape[1]

    def with_vectors(self, vectors: Mapping[str, Tensor]) -> TokenSet:
        """The same classes with other vectors, which are detached and converted to float32 on the CPU."""
        return replace(self, vectors={name: v.detach().float().cpu().clone() for name, v in vectors.items()})

    def select(self, classes: Sequence[int]) -> TokenSet:
        """The classes at these indices, in this order, with their support features."""
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
