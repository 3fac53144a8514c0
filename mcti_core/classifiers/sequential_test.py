"""Eliminate classes that are unlikely to win, by a sequential test on noise errors.

All classes of an image are evaluated on the same P trials, which are pairs of noise level and noise. After n of them, a
class is compared with the leader (the class with the smallest mean error so far) by their differences d_1, ..., d_n. It
wins in the end if the sum of all P differences is negative. If differences are normal with a flat prior, the probability
of that is the upper tail of Student's t at

    t = mean(d) * sqrt(n) / (s * sqrt(1 - n / P))

where s is the standard deviation of d, and 1 - n / P the finite-population correction. A class is eliminated if this
probability is below ``alpha / (classes - 1)``. Each class is eliminated at most once, so under this model early
elimination changes the answer with probability ``alpha`` at most. The model ignores that the test is repeated, and that
the leader is chosen by the same differences. On numbers drawn from the model, answers change for 0.3 to 0.7 times
``alpha`` of the images if classes differ, and for up to 1.6 times ``alpha`` if they do not.

For small n, s is uncertain. Classes of one image have similar s, so their mean variance is added with the weight of
``BORROWED`` trials, which also add degrees of freedom: the moderated t of Smyth 2004.

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
"""Number of trials before the first test."""
BORROWED = 8
"""Weight, in trials, of the mean variance over an image's classes. Chosen on the tuning characters (docs/performance.md)."""
_GROWTH = 1.1


def looks(num_trials: int) -> tuple[int, ...]:
    """The numbers of trials after which classes are tested: 4, then a tenth more each time, the last being ``num_trials``.

    >>> looks(20)
    (4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 20)
    """
    counts = [min(FIRST, num_trials)]
    while counts[-1] < num_trials:
        counts.append(min(num_trials, math.ceil(_GROWTH * counts[-1])))
    return tuple(counts)


def sequential_elimination(
    evaluate: Callable[[Tensor, int, int], Tensor], candidates: Tensor, num_trials: int, alpha: float
) -> tuple[Tensor, Tensor]:
    """Evaluate classes on more and more trials until each image has one class left, or all trials are used.

    Args:
        evaluate: ``evaluate(undecided, start, end)`` returns the errors (J, end - start) of the J undecided
            combinations of image and class, (B, C) bool, on these trials, in the order of ``undecided.nonzero()``.
        candidates: (B, C) bool, at least one class per image.
        num_trials: P.
        alpha: level of the test, about the probability that early elimination changes an image's answer; 0 eliminates
            no class early.

    Returns:
        Errors (B, C, P) float32, 0 where not evaluated, and the number of evaluated trials (B, C).
    """
    errors, counts = torch.zeros(*candidates.shape, num_trials), torch.zeros(candidates.shape, dtype=torch.long)
    remaining, rivals, done = candidates.clone(), (candidates.sum(1) - 1).clamp(min=1), 0
    for look in looks(num_trials):
        # a single candidate is evaluated once, to have a score
        undecided = remaining & ((remaining.sum(1, keepdim=True) > 1) | (done == 0))
        if not undecided.any():
            break
        errors[..., done:look][undecided] = evaluate(undecided, done, look)
        counts[undecided], done = look, look
        bound = t_quantile(alpha / rivals.double(), done - 1 + BORROWED)
        remaining &= ~eliminated(errors[..., :done], undecided, num_trials, bound)
    return errors, counts


def best_class(errors: Tensor, counts: Tensor) -> Tensor:
    """(B,) the class with the smallest mean error among those with the most trials; arguments as ``sequential_elimination`` returns them."""
    mean = errors.sum(2) / counts.clamp(min=1)
    return mean.masked_fill(counts < counts.amax(1, keepdim=True), torch.inf).argmin(1)


def eliminated(errors: Tensor, remaining: Tensor, num_trials: int, bound: Tensor) -> Tensor:
    """The classes that the test eliminates after n trials.

    Args:
        errors: (B, C, n) float32 errors on the first n of P trials, n at least 2; those of other classes are ignored.
        remaining: (B, C) bool, at least one class per image.
        bound: (B,) critical values, the ``t_quantile`` of each image's level.

    Returns:
        (B, C) bool; never the leader. At n = P all other classes.
    """
    n = errors.shape[2]
    errors = errors.double()
    leader = errors.mean(2).masked_fill(~remaining, torch.inf).argmin(1)  # (B,)
    rows = torch.arange(len(errors), device=errors.device)
    difference = errors - errors[rows, leader][:, None]  # (B, C, n)
    rivals = remaining.clone()
    rivals[rows, leader] = False
    if n == num_trials:
        return rivals
    variance = difference.var(2)  # (B, C)
    mean_variance = variance.masked_fill(~rivals, 0.0).sum(1) / rivals.sum(1).clamp(min=1)  # (B,)
    variance = (BORROWED * mean_variance[:, None] + (n - 1) * variance) / (BORROWED + n - 1)
    # without a division, since errors that do not differ have variance 0
    return rivals & (difference.mean(2) * math.sqrt(n) > bound[:, None] * (variance * (1 - n / num_trials)).sqrt())


def t_quantile(probability: Tensor, degrees: int) -> Tensor:
    """The value that Student's t with so many degrees of freedom exceeds with this probability (B,), in [0, 0.5]; infinite for 0."""
    from scipy.special import stdtrit

    bound = -torch.from_numpy(stdtrit(degrees, probability.double().numpy())).float()
    return bound.masked_fill(probability == 0, torch.inf)
