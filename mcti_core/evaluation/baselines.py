"""Baselines without learned tokens: classifiers on the examples' image features, and CLIP zero-shot by class names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..classifiers.hybrid import class_means
from ..classifiers.logistic import LogisticRegression
from ..hosts.base import Host
from ..hosts.features import hidden_at
from ..prompts.splicing import encode_prompts, plain_prompts
from ..tokens.token_set import Support

__all__ = ["BASELINES", "cache_model", "class_mean", "k_nearest", "logistic_probe", "name_text_features"]


def class_mean(support: Support, query: Tensor, classes: int) -> Tensor:
    """Nearest class mean by cosine similarity.

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
    """Majority class among the ``k`` nearest examples; ties are resolved by similarity.

    Arguments and result as in ``class_mean``; ``k`` is clipped to the number of examples.
    """
    k = min(k, len(support.features))
    similarity, nearest = (F.normalize(query, dim=-1) @ support.features.T).topk(k, dim=1)  # (Q, k)
    # Sums of k cosines are between -k and k: divided by more than 2k they only break ties.
    votes = 1 + similarity / (2 * k + 1)
    return torch.zeros(len(query), classes).scatter_add_(1, support.labels[nearest], votes).argmax(1)


def logistic_probe(support: Support, query: Tensor, classes: int) -> Tensor:
    """Multinomial logistic regression on the example features. Arguments and result as in ``class_mean``."""
    support = support.of_width(query.shape[1])
    probe = LogisticRegression(support.features, support.labels, classes)
    return probe.logits(F.normalize(query, dim=-1)).argmax(1)


def cache_model(support: Support, query: Tensor, classes: int) -> Tensor:
    """Tip-Adapter's cache model without its zero-shot term: examples vote with exp(-5.5 * (1 - cosine)).

    Arguments and result as in ``class_mean``.

    References:
        Zhang et al., "Tip-Adapter", ECCV 2022, arXiv 2111.03930; 5.5 is the paper's initial sharpness.
    """
    affinity = F.normalize(query, dim=-1) @ support.features.T  # (Q, N)
    return (torch.exp(-5.5 * (1 - affinity)) @ F.one_hot(support.labels, classes).float()).argmax(1)


BASELINES: dict[str, Callable[[Support, Tensor, int], Tensor]] = {
    "class mean": class_mean,
    "3 nearest neighbours": k_nearest,
    "logistic probe": logistic_probe,
    "Tip-Adapter's cache": cache_model,
}
"""Function (support, query features, number of classes) -> predictions, by name."""


def name_text_features(host: Host, names: Sequence[str], templates: Sequence[str], batch_size: int = 256) -> Tensor:
    """CLIP text features of C class names for zero-shot classification, averaged over the templates.

    Returns:
        (C, p) float32 of unit length, on the CPU.
    """
    clip = host.require_clip()
    texts = [template.replace("{}", name) for name in names for template in templates]
    no_tokens = {name: torch.zeros(1, 1, encoder.width, device=host.device) for name, encoder in host.text.items()}
    features = []
    with torch.inference_mode(), host.session("text"):
        for start in range(0, len(texts), batch_size):
            prompts = plain_prompts(host.text[clip.encoder], texts[start : start + batch_size]).without_padding()
            text = encode_prompts(host, {clip.encoder: prompts}, no_tokens)[clip.encoder]
            pooled = hidden_at(text.hidden, prompts.end)
            features.append(F.normalize(clip.project_text(pooled).float(), dim=-1).cpu())
    return F.normalize(torch.cat(features).view(len(names), len(templates), -1).mean(1), dim=-1).clone()
