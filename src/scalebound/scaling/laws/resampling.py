"""``resampling``: what repeated sampling against an imperfect verifier can reach.

Item i is answered correctly with probability p_i per draw and passes the verifier wrongly with probability f_i (a false positive). The
first answer that passes is returned, at most K are drawn. With q = p + f:

.. math:: P(\\text{correct}) = \\frac{p}{q}\\,(1 - (1-q)^K), \\quad P(\\text{wrong}) = \\frac{f}{q}\\,(1 - (1-q)^K), \\quad
          E[\\text{draws}] = \\frac{1 - (1-q)^K}{q}

However large K grows, the accuracy of what is returned tends to :math:`E[p/(p+f)]`; when wrong answers cost something the best K is finite.

Source
------
Stroebl, Kapoor and Narayanan 2024, arXiv 2411.17501.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError


def _rates(correct: np.ndarray, false_positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, f = np.broadcast_arrays(np.asarray(correct, dtype=float), np.asarray(false_positive, dtype=float))
    for name, values in (("correct", p), ("false_positive", f)):
        if not np.all((values >= 0) & (values <= 1)):
            raise InputError(f"{name} has an entry outside [0, 1]", expected="probabilities")
    if np.any(p + f > 1 + 1e-12):
        raise InputError("correct and false_positive add up to more than 1 for an item", expected="disjoint events of one draw")
    return p, f


def outcomes(correct: np.ndarray, false_positive: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability of a correct answer, of a wrong one, and mean number of draws, for each K in ``draws``: each (len(draws),)."""
    p, f = _rates(correct, false_positive)
    q = (p + f).ravel()[None, :]
    K = np.asarray(draws, dtype=float).reshape(-1, 1)
    returned = -np.expm1(K * np.log1p(-np.minimum(q, 1 - 1e-300)))
    safe = np.where(q > 0, q, 1.0)
    right = np.where(q > 0, p.ravel() / safe * returned, 0.0)
    wrong = np.where(q > 0, f.ravel() / safe * returned, 0.0)
    spent = np.where(q > 0, returned / safe, K)
    return right.mean(axis=1), wrong.mean(axis=1), spent.mean(axis=1)


def conditional_accuracy(correct: np.ndarray, false_positive: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Accuracy among returned answers, for each K.

    >>> conditional_accuracy(np.array([0.5, 0.01]), np.array([0.0, 0.01]), np.array([1, 10_000])).round(4).tolist()
    [0.9808, 0.75]
    """
    right, wrong, _ = outcomes(correct, false_positive, draws)
    return right / (right + wrong)


def ceiling(correct: np.ndarray, false_positive: np.ndarray) -> float:
    """Limit of :func:`conditional_accuracy` as K grows: the mean of p/(p+f) over items that are ever returned."""
    p, f = _rates(correct, false_positive)
    q = p + f
    if not np.any(q > 0):
        raise InputError("no item is ever returned", expected="an item with a positive probability of passing")
    return float(np.mean(p[q > 0] / q[q > 0]))


@dataclass(frozen=True)
class BestDraws:
    """The K of greatest utility; ``finite`` False when more draws, up to the most tried, do not lower it."""

    draws: int
    utility: float
    finite: bool


def best_draws(
    correct: np.ndarray, false_positive: np.ndarray, *, wrong_cost: float, draw_cost: float = 0.0, largest: int = 10_000
) -> BestDraws:
    """K that maximises ``P(correct) - wrong_cost P(wrong) - draw_cost E[draws]``. K = 0 returns nothing and is worth 0."""
    K = np.unique(np.concatenate([np.arange(0, min(largest, 200) + 1), np.geomspace(1, largest, 400).round()])).astype(int)
    right, wrong, spent = outcomes(correct, false_positive, K)
    utility = right - wrong_cost * wrong - draw_cost * spent
    k = int(np.argmax(utility))
    return BestDraws(int(K[k]), float(utility[k]), bool(utility[k] > utility[-1] + 1e-12))
