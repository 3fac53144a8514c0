"""Baselines for the tokens: classifiers that use only the stored image features."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..classifiers.hybrid import class_means
from ..errors import ConfigError, MCTIError
from ..tokens.token_set import Support

__all__ = ["BASELINES", "cache_model", "class_mean", "k_nearest", "logistic_probe"]


def class_mean(support: Support, query: Tensor, classes: int) -> Tensor:
    """The class whose mean example feature is nearest.

    Args:
        support: N example features (N, p) of unit length, with labels.
        query: (Q, p) float32 image features, of any length.
        classes: C.

    Returns:
        (Q,) int64 predicted classes.
    """
    support = support.of_width(query.shape[1])
    return (F.normalize(query, dim=-1) @ class_means(support.features, support.labels, classes).T).argmax(1)


def k_nearest(support: Support, query: Tensor, classes: int, k: int = 3) -> Tensor:
    """The most frequent class among the ``k`` nearest examples; ties go to the class with the greater similarity.

    Arguments and result as in ``class_mean``; ``k`` is at most the number of examples.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    k = min(k, len(support.features))
    similarity, nearest = (F.normalize(query, dim=-1) @ support.features.T).topk(k, dim=1)  # (Q, k)
    # Sums of k cosines are between -k and k: divided by more than 2k they only break ties.
    votes = 1 + similarity / (2 * k + 1)
    return torch.zeros(len(query), classes).scatter_add_(1, support.labels[nearest], votes).argmax(1)


def logistic_probe(support: Support, query: Tensor, classes: int, inverse_penalty: float = 10.0) -> Tensor:
    """Multinomial logistic regression on the example features.

    Arguments and result as in ``class_mean``.

    Args:
        inverse_penalty: scikit-learn's ``C``. The smaller it is, the more the probe resembles the class means.

    Raises:
        MCTIError: scikit-learn is not installed.
        ConfigError: all examples are of one class.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MCTIError("the logistic probe needs scikit-learn; install it with: pip install scikit-learn") from error
    present = torch.bincount(support.labels).nonzero()[:, 0]
    if len(present) < 2 or int(present[-1]) >= classes:
        raise ConfigError(
            f"the logistic probe needs examples of two or more of {classes} classes, got {present.tolist()}"
        )
    probe = LogisticRegression(C=inverse_penalty, max_iter=10_000)
    probe.fit(support.features.double().numpy(), support.labels.numpy())
    return torch.from_numpy(probe.predict(F.normalize(query, dim=-1).double().numpy())).long()


def cache_model(support: Support, query: Tensor, classes: int, sharpness: float = 5.5) -> Tensor:
    """Tip-Adapter's cache without its text classifier, which needs names: examples vote with exp(-sharpness * (1 - cosine)).

    Arguments and result as in ``class_mean``.

    References:
        Zhang et al., "Tip-Adapter", ECCV 2022, arXiv 2111.03930; the sharpness is the one it begins with.
    """
    affinity = F.normalize(query, dim=-1) @ support.features.T  # (Q, N)
    votes = torch.exp(-sharpness * (1 - affinity))
    return (votes @ F.one_hot(support.labels, classes).float()).argmax(1)


BASELINES: dict[str, Callable[[Support, Tensor, int], Tensor]] = {
    "class mean": class_mean,
    "3 nearest neighbours": k_nearest,
    "logistic probe": logistic_probe,
    "Tip-Adapter's cache": cache_model,
}
"""Name -> function of examples, queries and the number of classes."""
