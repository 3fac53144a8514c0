"""Add classes to a trained set: only the new vectors are trained, the old ones do not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from ..data.feature_cache import FeatureCache
from ..errors import ConfigError, TokenError
from ..hosts.base import Host
from ..tokens.names import index_of
from ..tokens.ops import merge
from ..tokens.token_set import TokenSet
from .config import TrainConfig
from .errors import TrainingError
from .initial import new_tokens
from .loop import StepInfo, TrainResult, train

__all__ = ["add_classes", "describe_learned_before", "new_labels"]

_COPY_SIMILARITY = 0.9999
"""Cosine from which two images count as the same; no two of 600 different digits exceed 0.97."""


def add_classes(
    host: Host, cache: FeatureCache, tokens: TokenSet, config: TrainConfig = TrainConfig(), *,
    initializer_token: str | None = None, on_step: Callable[[StepInfo], object] | None = None,
) -> TrainResult:  # fmt: skip
    """Learn tokens for the cache's classes that the set does not have, distinguished from those that it has.

    The classification term of the new tokens compares them with the old classes' example features, which the set
    contains, so old images are not needed. Its direction is ``text_to_image``: each new text against an image of every
    class, old or new. Old tokens are not trained; docs/results.md compares this with training all classes together.

    Args:
        host: has the model that the set was trained on.
        cache: examples of the new classes. Examples of old classes replace the set's stored features.
        config: settings. Templates and pooling are replaced by the set's, the direction by ``text_to_image``. ``batch_size``
            is the batch size for all classes together, of which the new classes get their share.
        initializer_token, on_step: see ``new_tokens`` and ``train``.

    Returns:
        As ``train``: the set with the new classes after the old ones, and support features of all classes.

    Raises:
        ConfigError: there is no new class; or gamma is above 0, and an old class has neither features nor examples.
        TokenError, HostError, TrainingError: as ``train`` and ``merge``.
    """
    added = new_labels(cache.classes, tokens)
    _check_record(tokens)
    new = new_tokens(
        host, added, num_vectors=tokens.vectors_per_token, initializer_token=initializer_token, seed=config.seed
    )
    new = replace(new, templates=tokens.templates, pooling=tokens.pooling)
    combined = merge(replace(tokens, support=None), new)
    config = replace(
        config, templates=tokens.templates, pooling=tokens.pooling, direction="text_to_image",
        batch_size=max(1, round(config.batch_size * len(added) / len(combined))),
    )  # fmt: skip
    examples = _with_old_classes(cache, tokens, combined.labels, needed=bool(config.gamma))
    shots = min(int((cache.labels == cache.classes.index(label)).sum()) for label in added)
    record = {"labels": added, "shots": shots}
    try:
        result = train(host, examples, combined, config, on_step=on_step, classes=range(len(tokens), len(combined)))
    except TrainingError as error:
        raise TrainingError(str(error), _with_record(error.tokens, tokens, record)) from error
    return replace(result, tokens=_with_record(result.tokens, tokens, record))


def new_labels(classes: Sequence[str], tokens: TokenSet) -> list[str]:
    """The labels that the set does not have, in order. Raises: ConfigError: there are none."""
    added = [label for label in classes if index_of(label, tokens.labels) is None]
    if not added:
        raise ConfigError(f"the set already has {', '.join(classes)}; give images of a class that it does not have")
    return added


def describe_learned_before(cache: FeatureCache, tokens: TokenSet, names: Sequence[str]) -> str:
    """A warning about examples that the set has learned as another class, recognised by their features; empty for none.

    Args:
        names: (N,) names of the cache's examples in the message.
    """
    support, features = tokens.support, cache.features
    if support is None or features is None or features.shape[-1] != support.features.shape[1]:
        return ""
    similarity, nearest = (F.normalize(features[:, 0].float(), dim=1) @ support.features.float().T).max(1)
    copies = []
    for row in (similarity >= _COPY_SIMILARITY).nonzero()[:, 0].tolist():
        old = int(support.labels[nearest[row]])
        if index_of(cache.classes[int(cache.labels[row])], tokens.labels) != old:
            copies.append(f"{names[row]} of {tokens.labels[old]}")
    if not copies:
        return ""
    shown = "; ".join(copies[:3]) + "; ..." * (len(copies) > 3)
    count = (
        f"{len(copies)} {'images were' if len(copies) > 1 else 'image was'} learned as another class before ({shown})"
    )
    return f"{count}; remove the wrong ones, since no classifier can separate the same image"


def _with_old_classes(cache: FeatureCache, tokens: TokenSet, labels: tuple[str, ...], needed: bool) -> FeatureCache:
    """The examples in the label order of the combined set, with the stored features of the classes without examples."""
    own_labels = torch.tensor([index_of(label, labels) for label in cache.classes])[cache.labels]
    absent = [index for index, label in enumerate(tokens.labels) if index_of(label, cache.classes) is None]
    support, features, stored_labels = tokens.support, cache.features, cache.labels[:0]
    stored = torch.zeros(0) if features is None else features[:0]  # (n, M, p)
    if absent and support is not None and features is not None:
        rows = torch.isin(support.labels, torch.tensor(absent))
        stored = support.of_width(features.shape[2]).features[rows][:, None].expand(-1, features.shape[1], -1)
        stored_labels = support.labels[rows]
    lacking = [tokens.labels[index] for index in absent if not (stored_labels == index).any()]
    if lacking and needed:
        raise ConfigError(
            f"the set has no example features of {', '.join(lacking)}; give images of these classes too, or set gamma to 0"
        )
    stored_hash = hashlib.sha256(stored.numpy().tobytes()).hexdigest()
    key = f"{cache.fingerprint}:{labels}:{stored_labels.tolist()}:{stored_hash}"
    return replace(  # latents, masks and captions of the examples come first, and only these are used
        cache,
        classes=labels,
        labels=torch.cat([own_labels, stored_labels]),
        features=None if features is None else torch.cat([features, stored]),
        fingerprint=hashlib.sha256(key.encode()).hexdigest()[:32],
        thumbnails=None,
    )


def _check_record(tokens: TokenSet) -> None:
    """Check that an entry can be added to the set's record of its training, before the training runs. Raises: TokenError."""
    try:
        json.dumps(tokens.training)
        if isinstance(tokens.training.get("added", []), list):
            return
    except (TypeError, ValueError, RecursionError):
        pass
    raise TokenError(
        "the set's record of its training is damaged; write a new set with mcti convert, or train it again"
    )


def _with_record(learned: TokenSet, before: TokenSet, added: dict[str, object]) -> TokenSet:
    """Add an entry to the set's record of its training, and drop support features that are not of all classes."""
    training = {**before.training, "added": [*before.training.get("added", []), {**learned.training, **added}]}
    support = learned.support
    complete = support is not None and len(support.labels.unique()) == len(learned)
    return replace(learned, training=training, support=support if complete else None)
