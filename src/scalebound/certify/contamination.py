"""Is a test set likelier to the model in the order it was published than shuffled: then the model has seen it.

The items of a benchmark have no order of their own, so before training every order is as likely as any other. A model trained on the
published file knows its order. For each shard of items, the log-likelihood in the published order is compared with that of m random
orders; under the null the m + 1 numbers are exchangeable, whatever the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scalebound.certify.evalues import e_value, p_value
from scalebound.core.errors import InputError, UsageError

TILTS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Contamination:
    """``permutation_p`` is the exact p-value of the mean advantage of the published order over all shards; ``e_value`` multiplies over shards
    and may be stopped after any of them (``p_value``: one over its maximum). ``advantage`` is the mean difference in nats per shard."""

    permutation_p: float
    e_value: float
    log_e_value: float
    p_value: float
    advantage: float
    shards: int
    orders: int
    verdict: str


def exchangeability(published: np.ndarray, shuffled: np.ndarray, *, level: float = 0.05) -> Contamination:
    """Test that the published order of each shard is exchangeable with random ones.

    Two exact tests: the rank of the published total among the totals of m random orders of all shards,
    ``p = (1 + #{shuffled >= published})/(m + 1)``; and the product over shards of the soft-rank e-value
    ``(m + 1) f(published)/sum f(all)``, ``f = exp(tilt * standardised log-likelihood)``, mixed over three tilts. Which decides is fixed: the
    e-value when there is more than one shard, the rank with one.

    Parameters
    ----------
    published : (shards,) nats                log-likelihood of each shard in the published order
    shuffled : (orders, shards) nats          in m random orders, drawn uniformly and independently of the model

    Returns
    -------
    Contamination                             verdict "contaminated" when the test rejects at ``level``, else "undecided"

    Raises
    ------
    UsageError                                level out of range
    InputError                                shapes that do not fit, NaN, no order

    Source: Oren et al. 2023 (arXiv 2310.17623), who judge the shards together by a normal approximation; docs/mathematics.md section 14.

    >>> rng = np.random.default_rng(0)
    >>> exchangeability(rng.normal(3, 1, 8), rng.normal(0, 1, (30, 8))).verdict
    'contaminated'
    """
    if not 0 < level < 1:
        raise UsageError(f"level is {level}", where="level", expected="inside (0, 1)")
    first, rest = np.asarray(published, dtype=np.float64), np.asarray(shuffled, dtype=np.float64)
    if first.ndim != 1 or rest.ndim != 2 or rest.shape[1:] != first.shape or not len(first) or not len(rest):
        raise InputError(
            f"log-likelihoods of shape {first.shape} and {rest.shape}", where="contamination", expected="(shards,) and (orders, shards)"
        )
    if not (np.isfinite(first).all() and np.isfinite(rest).all()):
        raise InputError("a log-likelihood is not finite", where="contamination")
    orders = len(rest)
    # ties count against the claim
    rank_p = (1 + int((rest.sum(axis=1) >= first.sum()).sum())) / (orders + 1)
    every = np.concatenate([first[None], rest])
    spread = every.std(axis=0)
    scores = (every - every.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    paths = []
    for tilt in TILTS:
        weights = np.exp(tilt * (scores - scores.max(axis=0)))
        paths.append(np.cumsum(np.log((orders + 1) * weights[0] / weights.sum(axis=0))))
    path = np.logaddexp.reduce(paths, axis=0) - math.log(len(TILTS))
    decided = p_value(float(path.max())) if len(first) > 1 else rank_p
    return Contamination(
        permutation_p=rank_p,
        e_value=e_value(float(path[-1])),
        log_e_value=float(path[-1]),
        p_value=decided,
        advantage=float((first - rest.mean(axis=0)).mean()),
        shards=len(first),
        orders=orders,
        verdict="contaminated" if decided <= level else "undecided",
    )
