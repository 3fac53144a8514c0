"""Merge, select and rename classes of token sets, without training or files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch

from ..errors import TokenError, counted, listed
from .encoders import describe_encoders
from .names import find_class, normal_form, safe_names
from .token_set import Support, TokenSet

__all__ = ["class_index", "merge", "rename", "select"]


def class_index(tokens: TokenSet, which: str | int) -> int:
    """The class of a label, a token name in any case, or an index. Raises: TokenError: there is no such class."""
    if isinstance(which, str):
        index = find_class(which, tokens.labels, tokens.names)
        if index is not None:
            return index
    elif 0 <= which < len(tokens):
        return which
    raise TokenError(f"there is no class {which!r} here; there are: {listed(tokens.labels)}")


def select(tokens: TokenSet, classes: Sequence[str | int]) -> TokenSet:
    """The given classes, in this order, with their support.

    Raises:
        TokenError: no class, a class twice, or an unknown class.
    """
    indices = [class_index(tokens, which) for which in classes]
    if len(set(indices)) != len(indices):
        raise TokenError(f"a class is listed twice: {listed(classes)}")
    if not indices:
        raise TokenError(f"no class is given; there are: {listed(tokens.labels)}")
    return tokens.select(indices)


def rename(tokens: TokenSet, names: Mapping[str, str]) -> TokenSet:
    """Change the labels of some classes, and make token names from them.

    Args:
        names: the old label or token name -> the new label.

    Raises:
        TokenError: an unknown class, or a label or token name that another class has.
    """
    new = {class_index(tokens, old): label for old, label in names.items()}
    labels = [new.get(index, label) for index, label in enumerate(tokens.labels)]
    names_after = [safe_names([new[index]])[0] if index in new else name for index, name in enumerate(tokens.names)]
    _refuse_clashes(labels, names_after, "choose another name")
    return replace(tokens, labels=tuple(labels), names=tuple(names_after))


def merge(*sets: TokenSet) -> TokenSet:
    """Concatenate the classes of all sets.

    Classification gets less accurate: a token was trained against the classes of its own set only. Classes of different
    sets were never compared, and a token that is slightly too near to everything takes images from all other classes. So
    expect less than from one training of all classes (docs/results.md has figures), and evaluate. Text features are only
    comparable if they are read in the same way, so templates and pooling must agree. The caller must make sure that both
    sets were trained on the same checkpoint.

    Support features are kept if all sets have them. Otherwise the result has none, and the hybrid classifier and
    calibration, which need them for every class, are not available.

    Raises:
        TokenError: no sets, two classes with the same label or token name, or incompatible sets.
    """
    if not sets:
        raise TokenError("there are no token sets to merge")
    for other in sets[1:]:
        _refuse_unlike(sets[0], other)
    labels = [label for one in sets for label in one.labels]
    names = [name for one in sets for name in one.names]
    _refuse_clashes(labels, names, "rename one of the two before")
    return replace(
        sets[0],
        labels=tuple(labels),
        names=tuple(names),
        vectors={name: torch.cat([one.vectors[name] for one in sets]) for name in sets[0].vectors},
        base_model=" + ".join(dict.fromkeys(one.base_model for one in sets if one.base_model)),
        training=_trainings(sets),
        support=_supports(sets),
    )


def _refuse_clashes(labels: Sequence[str], names: Sequence[str], advice: str) -> None:
    labels_by_name: dict[str, str] = {}
    for label, name in zip(labels, names, strict=True):
        if label in labels_by_name.values():
            raise TokenError(f"two classes are called {label!r}; {advice}")
        first = labels_by_name.setdefault(normal_form(name), label)
        if first != label:
            raise TokenError(f"classes {first!r} and {label!r} have the same token name {name!r}; {advice}")


def _refuse_unlike(one: TokenSet, other: TokenSet) -> None:
    shapes = [{name: tuple(rows.shape[1:]) for name, rows in tokens.vectors.items()} for tokens in (one, other)]
    if shapes[0] != shapes[1]:
        raise TokenError(f"these tokens cannot be in one set: {_described(one)}, and {_described(other)}")
    if (one.pooling, one.templates) != (other.pooling, other.templates):
        what = "pooling" if one.pooling != other.pooling else "templates"
        values = " and ".join(str(getattr(tokens, what))[:60] for tokens in (one, other))
        raise TokenError(f"these tokens are read in different ways ({what} {values}), so keep them apart")
    if one.support and other.support and one.support.features.shape[1] != other.support.features.shape[1]:
        raise TokenError("these tokens' example features are of different CLIP spaces; keep them apart")


def _described(tokens: TokenSet) -> str:
    widths = describe_encoders({name: vectors.shape[-1] for name, vectors in tokens.vectors.items()})
    return f"{tokens.labels[0]!r} has {counted(tokens.vectors_per_token, 'vector')} for {widths}"


def _trainings(sets: Sequence[TokenSet]) -> Mapping[str, Any]:
    """The training settings if all sets share them, otherwise each set's own."""
    trainings = [dict(one.training) for one in sets if one.training]
    if all(training == trainings[0] for training in trainings) and len(trainings) in (0, len(sets)):
        return trainings[0] if trainings else {}
    return {"merged": [{**one.training, "labels": list(one.labels)} for one in sets]}


def _supports(sets: Sequence[TokenSet]) -> Support | None:
    supports = [one.support for one in sets if one.support is not None]
    if len(supports) < len(sets):
        return None
    starts = accumulate(map(len, sets), initial=0)
    labels = [support.labels + start for support, start in zip(supports, starts, strict=False)]
    return Support(torch.cat([support.features for support in supports]), torch.cat(labels))
