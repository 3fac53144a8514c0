"""When a class has lost: a sequential test on noise errors that all classes share.

All classes of an image are tried on the same pairs of noise level and noise, so that a class is compared with the leader
(the class with the least error so far) pair by pair: d_1, ..., d_n after n of P pairs. Whether it ends below the leader
depends on the sum of all P differences, of which P - n are not known yet. If they are normal, and nothing was known
before, the chance that the sum comes out negative is the upper tail of Student's t at

    t = mean(d) * sqrt(n) / (s * sqrt(1 - n / P))

where 1 - n / P is the finite-population correction: at n = P nothing is left to learn. A class whose chance is below
``error / (classes - 1)`` is stopped. Each class is stopped at most once, so that under this model the answer differs from
that of the full budget, all classes on all pairs, with a probability of at most ``error``. The model leaves out that there
are many looks, and that the leader is chosen by the same numbers. On numbers drawn as it has them, decisions change in 0.3
to 0.7 times ``error`` of the images where classes differ, and in up to 1.6 times where they do not differ at all.

With few pairs s is uncertain. Rivals of one image have similar s, so theirs is blended in as if it came from
``BORROWED`` further pairs, the moderated t of Smyth 2004; degrees of freedom grow by as many.

References:
    Smyth, "Linear models and empirical Bayes methods for assessing differential expression in microarray experiments",
    Statistical Applications in Genetics and Molecular Biology 3(1), 2004, equation for the moderated t.
    Cochran, "Sampling Techniques", 3rd ed. 1977, 2.6 (finite-population correction).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["BORROWED", "FIRST", "best_class", "eliminated", "looks", "sequential_elimination", "t_quantile"]

FIRST = 4
"""Pairs before the first look."""
BORROWED = 8
"""Weight of the mean variance of an image's rivals, in pairs. Chosen on the tuning characters (docs/performance.md)."""
_GROWTH = 1.1


def looks(pairs: int) -> tuple[int, ...]:
    """After how many pairs classes are stopped: 4, then every tenth more, the last time at ``pairs``.

    >>> looks(20)
    (4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 20)
    """
    counts = [min(FIRST, pairs)]
    while counts[-1] < pairs:
        counts.append(min(pairs, math.ceil(_GROWTH * counts[-1])))
    return tuple(counts)


def sequential_elimination(
    evaluate: Callable[[Tensor, int, int], Tensor], tried: Tensor, pairs: int, error: float
) -> tuple[Tensor, Tensor]:
    """Try classes on pair after pair until one is left of each image, or no pair is.

    Args:
        evaluate: called with those who go on, (B, C) bool, and the first pair and the one after the last of the next
            round; gives their errors (J, pairs of the round), in the order of ``going.nonzero()``.
        tried: (B, C) bool, the classes to try, at least one an image.
        pairs: P.
        error: level of the test, about the probability that an image's answer is not the full budget's; 0 stops nobody early.

    Returns:
        errors (B, C, P) float32, 0 where none was asked for; and on how many first pairs each class was tried, (B, C).
    """
    errors, seen = torch.zeros(*tried.shape, pairs), torch.zeros(tried.shape, dtype=torch.long)
    alive, rivals, done = tried.clone(), (tried.sum(1) - 1).clamp(min=1), 0
    for look in looks(pairs):
        going = alive & ((alive.sum(1, keepdim=True) > 1) | (done == 0))  # a lone class is tried too, to have a score
        if not going.any():
            break
        errors[..., done:look][going] = evaluate(going, done, look)
        seen[going], done = look, look
        bound = t_quantile(error / rivals.double(), done - 1 + BORROWED)
        alive &= ~eliminated(errors[..., :done], going, pairs, bound)
    return errors, seen


def best_class(errors: Tensor, seen: Tensor) -> Tensor:
    """(B,) the class with the least mean error of those that were tried on the most pairs; arguments as ``race`` gives them."""
    mean = errors.sum(2) / seen.clamp(min=1)
    return mean.masked_fill(seen < seen.amax(1, keepdim=True), torch.inf).argmin(1)


def eliminated(errors: Tensor, alive: Tensor, pairs: int, bound: Tensor) -> Tensor:
    """Who cannot win any more, as far as the test can tell.

    Args:
        errors: (B, C, n) float32, n at least 2, of the first n pairs; rows of classes that are not alive are not read.
        alive: (B, C) bool, with at least one class an image.
        pairs: P, not less than n.
        bound: (B,) of t, ``t_quantile`` of each image's level.

    Returns:
        (B, C) bool; never the leader. At n = P everybody else.
    """
    n = errors.shape[2]
    errors = errors.double()
    leader = errors.mean(2).masked_fill(~alive, torch.inf).argmin(1)  # (B,)
    rows = torch.arange(len(errors), device=errors.device)
    apart = errors - errors[rows, leader][:, None]  # (B, C, n)
    rival = alive.clone()
    rival[rows, leader] = False
    if n == pairs:
        return rival
    variance = apart.var(2)  # (B, C)
    shared = variance.masked_fill(~rival, 0.0).sum(1) / rival.sum(1).clamp(min=1)  # (B,)
    variance = (BORROWED * shared[:, None] + (n - 1) * variance) / (BORROWED + n - 1)
    # multiplied out, for errors that do not differ at all have no variance
    return rival & (apart.mean(2) * math.sqrt(n) > bound[:, None] * (variance * (1 - n / pairs)).sqrt())


def t_quantile(chance: Tensor, freedom: int) -> Tensor:
    """The t that Student's distribution with this ``freedom`` exceeds with ``chance`` (B,), in [0, 0.5]; infinite for 0."""
    from scipy.special import stdtrit

    bound = -torch.from_numpy(stdtrit(freedom, chance.double().numpy())).float()
    return bound.masked_fill(chance == 0, torch.inf)
