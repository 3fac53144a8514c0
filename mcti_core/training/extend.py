"""Add classes to a trained set: only the new vectors are trained, the old ones stay to the bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.feature_cache import FeatureCache
from ..errors import ConfigError, TokenError
from ..hosts.base import Host
from ..tokens.normal_form import index_of
from ..tokens.ops import merge
from ..tokens.token_set import TokenSet
from .config import TrainConfig
from .errors import TrainingError
from .initial import new_tokens
from .loop import StepInfo, TrainResult
from .oom import train_with_oom_retry

__all__ = ["add_classes", "new_labels", "tell_learned_before"]

_SAME = 0.9999
"""Cosine of the features of one image that is read twice; of 600 different digits no two are above 0.97."""


def add_classes(
    host: Host,
    cache: FeatureCache,
    tokens: TokenSet,
    config: TrainConfig = TrainConfig(),
    *,
    init: str | None = None,
    on_step: Callable[[StepInfo], object] | None = None,
) -> TrainResult:
    """Learn tokens for the cache's classes that the set does not have, against those that it has.

    The new tokens' classification term compares them with the old classes' examples, whose features the set carries: old
    images are not needed. It reads ``text_to_image``, each new text against an image of every class, old or new; old texts
    do not take part, and whether an old token should move is never asked. What that costs beside training all classes
    anew was measured (docs/results.md).

    Args:
        host: what the set was trained on.
        cache: examples of the new classes. Classes of the set may be among them; their examples here then count in
            place of the stored features.
        tokens: the trained set.
        config: settings. Templates and pooling are the set's own, the direction is ``text_to_image``; ``batch`` is
            what the joint training of all classes would have, of which new ones get their share.
        init: first vector of the new tokens, see ``new_tokens``.
        on_step: see ``train``.

    Returns:
        As ``train``: the set with the new classes behind the old ones, and everybody's support features.

    Raises:
        ConfigError: no new class; with gamma above 0, an old class of which neither features nor examples are at hand.
        TokenError, HostError, TrainingError: as ``train`` and ``merge``.
    """
    added = new_labels(cache.classes, tokens)
    _check_record(tokens)
    first = new_tokens(host, added, vectors=tokens.vectors_per_token, init=init, seed=config.seed)
    whole = merge(replace(tokens, support=None), replace(first, templates=tokens.templates, pooling=tokens.pooling))
    share = max(1, round(config.batch * len(added) / len(whole)))
    own = replace(config, templates=tokens.templates, pooling=tokens.pooling, direction="text_to_image", batch=share)
    everything = _with_old_classes(cache, tokens, whole.labels, needed=bool(config.gamma))
    new = range(len(tokens), len(whole))
    shots = min(int((cache.labels == cache.classes.index(label)).sum()) for label in added)
    how = {"labels": added, "shots": shots}
    try:
        result = train_with_oom_retry(host, everything, whole, own, on_step=on_step, classes=list(new))
    except TrainingError as error:
        raise TrainingError(str(error), _described(error.tokens, tokens, how)) from error
    return replace(result, tokens=_described(result.tokens, tokens, how))


def new_labels(classes: Sequence[str], tokens: TokenSet) -> list[str]:
    """The labels that a set lacks, in order.

    Raises:
        ConfigError: there is none.
    """
    added = [label for label in classes if index_of(label, tokens.labels) is None]
    if not added:
        raise ConfigError(
            f"the examples are of {', '.join(classes)}, which the set has already; give images of a class it lacks"
        )
    return added


def tell_learned_before(cache: FeatureCache, tokens: TokenSet, names: Sequence[str]) -> str:
    """A sentence about examples that the set has learned as another class, by their features; empty where there are none.

    Args:
        names: (N,) what each example of the cache is called before a person.
    """
    support, features = tokens.support, cache.features
    if support is None or features is None or features.shape[-1] != support.features.shape[1]:
        return ""
    likeness, which = (F.normalize(features[:, 0].float(), dim=1) @ support.features.float().T).max(1)
    copies = []
    for name, label, same, old in zip(
        names, cache.labels.tolist(), likeness >= _SAME, support.labels[which].tolist(), strict=True
    ):
        if same and index_of(cache.classes[label], tokens.labels) != old:
            copies.append(f"{name} of {tokens.labels[old]}")
    if not copies:
        return ""
    shown = "; ".join(copies[:3]) + "; ..." * (len(copies) > 3)
    return (
        f"{len(copies)} {'images are' if len(copies) > 1 else 'image is'} among those that the set has learned as another class ({shown}); "
        "nothing can tell these apart, so take the wrong ones out"
    )


def _with_old_classes(cache: FeatureCache, tokens: TokenSet, labels: tuple[str, ...], needed: bool) -> FeatureCache:
    """The examples in the whole set's label order, and stored features for classes that are not among them."""
    own = torch.tensor([index_of(label, labels) for label in cache.classes])[cache.labels]
    missing = [index for index, label in enumerate(tokens.labels) if index_of(label, cache.classes) is None]
    stored, of = _stored(tokens, missing, cache.features, needed)
    key = f"{cache.fingerprint}:{labels}:{of.tolist()}:{hashlib.sha256(stored.numpy().tobytes()).hexdigest()}"
    return replace(  # latents, masks and captions of the examples come first, and only they are ever asked for
        cache,
        classes=labels,
        labels=torch.cat([own, of]),
        features=None if cache.features is None else torch.cat([cache.features, stored]),
        fingerprint=hashlib.sha256(key.encode()).hexdigest()[:32],
        thumbnails=None,
    )


def _stored(tokens: TokenSet, classes: list[int], like: Tensor | None, needed: bool) -> tuple[Tensor, Tensor]:
    """(n, M, p) features of these classes from the set, and (n,) their labels."""
    views = (1, 1) if like is None else tuple(like.shape[1:])
    support = tokens.support
    if support is None or like is None or not classes:
        if classes and needed:
            raise ConfigError(
                f"the set holds no features of its examples; give images of its classes too ({', '.join(tokens.labels)}), or set gamma to 0"
            )
        return torch.zeros(0, *views), torch.zeros(0, dtype=torch.long)
    chosen = torch.isin(support.labels, torch.tensor(classes))
    lacking = [tokens.labels[index] for index in classes if not (support.labels == index).any()]
    if lacking and needed:
        raise ConfigError(f"the set holds no features of {', '.join(lacking)}; give images of them too")
    features = support.of_width(views[1]).features[chosen]
    return features[:, None].expand(-1, *views).clone(), support.labels[chosen]


def _check_record(tokens: TokenSet) -> None:
    """Raise a ``TokenError`` where what the set says of its training cannot be carried on; before the training, which it would cost."""
    try:
        json.dumps(tokens.training)
        damaged = not isinstance(tokens.training.get("added", []), list)
    except (TypeError, ValueError, RecursionError):
        damaged = True
    if damaged:
        raise TokenError(
            "the set's record of its training is damaged; make a new set of it with mcti convert, or train it again"
        )


def _described(learned: TokenSet, before: TokenSet, added: dict[str, object]) -> TokenSet:
    """How the old ones were trained, and what was added how; and features, if they are of all classes."""
    how = {**before.training, "added": [*before.training.get("added", []), {**learned.training, **added}]}
    support = learned.support
    complete = support is not None and len(support.labels.unique()) == len(learned)
    return replace(learned, training=how, support=support if complete else None)
