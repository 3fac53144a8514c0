"""The initial vectors of a training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..errors import TokenError, listed
from ..escaping import has_surrogates
from ..hosts.base import Host
from ..tokens.names import index_of, safe_names
from ..tokens.token_set import TokenSet

__all__ = ["names_like", "new_tokens", "take_over"]

_LOG = logging.getLogger(__name__)


def new_tokens(
    host: Host, labels: Sequence[str], *, num_vectors: int = 1, initializer_token: str | None = None, seed: int = 0
) -> TokenSet:
    """Create tokens to train.

    Args:
        host: the host whose text encoders the tokens are for.
        labels: C classes.
        num_vectors: V, the number of vectors per token.
        initializer_token: a word of one token, or of V for one each; ``"mean"`` of the vocabulary, or ``"random"`` with its
            mean and standard deviation. By default the host's generic word.
        seed: seed of random vectors.

    Raises:
        TokenError: ``labels`` is a single text, V is below 1, or ``initializer_token`` is empty, not valid text or of
            another number of tokens.
    """
    if isinstance(labels, str):
        raise TokenError(f"labels must be a list of texts, got {labels!r} alone; write [{labels!r}]")
    if num_vectors < 1:
        raise TokenError(f"a token needs at least one vector, got {num_vectors}")
    word = host.generic_word if initializer_token is None else initializer_token
    if not word.strip() or has_surrogates(word):
        raise TokenError(
            f"the initial word {word!r} is empty or contains an invalid character (a lone surrogate); give a word, 'mean' or 'random'"
        )
    vectors = {}
    for name, encoder in host.text.items():
        # of a word only its own rows: the table of a large encoder has a quarter of a gigabyte
        word_ids = [] if word in ("mean", "random") else encoder.tokenize(word)
        ids = torch.tensor(word_ids) if word_ids else torch.arange(encoder.vocabulary_size)
        rows = encoder.embed(ids.to(host.device)).detach().float().cpu()  # (n, d)
        if word == "random":
            noise = torch.randn(len(labels), num_vectors, encoder.width, generator=torch.Generator().manual_seed(seed))
            vectors[name] = rows.mean(0) + rows.std(0) * noise
            continue
        if not word_ids or initializer_token is None:  # a vocabulary may not have the generic word as one token
            rows = rows.mean(0, keepdim=True)
        if len(rows) not in (1, num_vectors):
            several = f" or, for {num_vectors} vectors, {num_vectors}" if num_vectors > 1 else ""
            raise TokenError(f"the initial word has {len(rows)} tokens; use one that has 1{several}")
        vectors[name] = rows.expand(len(labels), num_vectors, -1).clone()
    return TokenSet(tuple(labels), vectors, base_model=host.name)


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
    trained_rows = {index: index_of(label, trained.labels) for index, label in enumerate(tokens.labels)}
    rows = {index: row for index, row in trained_rows.items() if row is not None}
    shapes, trained_shapes = ({name: v.shape[1:] for name, v in each.vectors.items()} for each in (tokens, trained))
    if not rows or shapes != trained_shapes:
        raise TokenError(
            f"the trained tokens cannot be used: they have {_described(trained)}; this training has {_described(tokens)}"
        )
    start = tokens.with_vectors(tokens.vectors)
    for name, vectors in trained.vectors.items():
        start.vectors[name][list(rows)] = vectors[list(rows.values())]
    if lacking := [label for label in trained.labels if index_of(label, tokens.labels) is None]:
        _LOG.warning(
            "there are no examples of %s: the new tokens lack these classes of the trained ones", listed(lacking)
        )
    return replace(start, names=names_like(tokens.labels, trained))


def _described(tokens: TokenSet) -> str:
    sizes = " and ".join(f"{' x '.join(map(str, v.shape[1:]))} numbers ({name})" for name, v in tokens.vectors.items())
    return f"{sizes} for {listed(tokens.labels)}"
