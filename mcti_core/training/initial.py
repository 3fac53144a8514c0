"""The initial vectors of a training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import TokenError, listed
from ..escaping import has_surrogates
from ..hosts.base import Host
from ..tokens.names import index_of, safe_names
from ..tokens.token_set import TokenSet

__all__ = ["initial_vectors", "names_like", "new_tokens", "take_over"]

_LOG = logging.getLogger(__name__)


def new_tokens(
    host: Host, labels: Sequence[str], *, num_vectors: int = 1, initializer_token: str | None = None, seed: int = 0
) -> TokenSet:
    """Create tokens to train.

    Args:
        host: the host whose text encoders the tokens are for.
        labels: the classes.
        num_vectors: V, the number of vectors per token.
        initializer_token: a word, ``"mean"`` or ``"random"``; by default the host's generic word.
        seed: seed of random vectors.

    Raises:
        TokenError: ``labels`` is a single text, or ``initializer_token`` is empty or not valid text; also see ``initial_vectors``.
    """
    if isinstance(labels, str):
        raise TokenError(f"labels must be a list of texts, got {labels!r} alone; write [{labels!r}]")
    by_default = initializer_token is None
    initializer_token = host.generic_word if initializer_token is None else initializer_token
    if not initializer_token.strip() or has_surrogates(initializer_token):
        raise TokenError(
            f"the initial word {initializer_token!r} is empty or contains half a character; give a word, 'mean' or 'random'"
        )
    first = {}
    for name, encoder in host.text.items():
        word = [] if initializer_token in ("mean", "random") else encoder.tokenize(initializer_token)
        kind = initializer_token if initializer_token in ("mean", "random") else "mean"
        # only the word's own rows: the table of a large encoder has a quarter of a gigabyte
        ids = torch.tensor(word) if word else torch.arange(encoder.vocabulary)
        table = encoder.embed(ids.to(host.device))
        if by_default and len(word) > 1:  # a vocabulary may have no such word
            table, word = table.mean(0, keepdim=True), word[:1]
        first[name] = initial_vectors(table, len(labels), num_vectors, word=range(len(word)), kind=kind, seed=seed)
    return TokenSet(tuple(labels), first, base_model=host.name)


def names_like(labels: Sequence[str], trained: TokenSet | None) -> tuple[str, ...]:
    """Token names: those of a trained set for the labels that it has, ``safe_names`` for the others."""
    rows = [index_of(label, trained.labels) if trained else None for label in labels]
    names = zip(rows, safe_names(labels), strict=True)
    return tuple(trained.names[row] if trained and row is not None else name for row, name in names)


def take_over(tokens: TokenSet, trained: TokenSet) -> TokenSet:
    """The tokens, with the vectors and names of a trained set for each label that both sets have. Logs which it alone has.

    Raises:
        TokenError: no common label, or vectors of another number or width, or for other text encoders.
    """
    common = [
        (index, row)
        for index, label in enumerate(tokens.labels)
        if (row := index_of(label, trained.labels)) is not None
    ]
    shapes, trained_shapes = ({name: v.shape[1:] for name, v in each.vectors.items()} for each in (tokens, trained))
    if not common or shapes != trained_shapes:
        raise TokenError(
            f"the trained tokens cannot be used: they have {_described(trained)}; this training has {_described(tokens)}"
        )
    start = tokens.with_vectors(tokens.vectors)
    for name, vectors in trained.vectors.items():
        for index, row in common:
            start.vectors[name][index] = vectors[row]
    if lacking := [label for label in trained.labels if index_of(label, tokens.labels) is None]:
        _LOG.warning(
            "there are no examples of %s: the new tokens lack these classes of the trained ones", listed(lacking)
        )
    return replace(start, names=names_like(tokens.labels, trained))


def _described(tokens: TokenSet) -> str:
    sizes = " and ".join(f"{' x '.join(map(str, v.shape[1:]))} numbers ({name})" for name, v in tokens.vectors.items())
    return f"{sizes} for {listed(tokens.labels)}"


def initial_vectors(
    table: Tensor, classes: int, count: int, *, word: Sequence[int] = (), kind: str = "mean", seed: int = 0
) -> Tensor:
    """Initial vectors of a training.

    Args:
        table: (vocabulary, d) token embeddings.
        classes, count: C and V.
        word: token ids of a generic word ("object"): one id for all V vectors, or V ids for one each.
        kind: without a word, ``"mean"`` of the vocabulary, or ``"random"`` with its mean and standard deviation.
        seed: seed of random vectors.

    Returns:
        (C, V, d) float32 on the CPU.

    Raises:
        TokenError: V is below 1, the word does not have one or V tokens, or ``kind`` is unknown.
    """
    if count < 1:
        raise TokenError(f"a token needs at least one vector, got {count}")
    table = table.detach().float().cpu()
    if len(word):
        if len(word) not in (1, count):
            several = f" or, for {count} vectors, {count}" if count > 1 else ""
            raise TokenError(f"the initial word has {len(word)} tokens; use one that has 1{several}")
        rows = table[torch.tensor(list(word))]  # (1 or V, d)
        return rows.expand(classes, count, -1).clone()
    mean = table.mean(0)
    if kind == "mean":
        return mean.expand(classes, count, -1).clone()
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        return mean + table.std(0) * torch.randn(classes, count, table.shape[1], generator=generator)
    raise TokenError(f"initial vectors {kind!r} are not known; use a word, 'mean' or 'random'")
