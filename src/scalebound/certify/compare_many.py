"""Several models on one stream: every pair, with the false discovery rate kept over all claims "this one predicts better than that one"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalebound.certify.compare import MIXED, Comparison, Paired, Verdict, verdict_of
from scalebound.certify.evalues import e_bh, e_value, p_value
from scalebound.core.errors import UsageError
from scalebound.core.stats import Stats


@dataclass(frozen=True)
class Ranked:
    """``pairs[k]`` compares models ``indices[k] = (i, j)``, i before j in the list given.

    ``wins[i]`` counts the models that i was found better than. Among the claims made, the expected share of false ones is at most ``1 -
    level``.
    """

    indices: tuple[tuple[int, int], ...]
    pairs: tuple[Comparison, ...]
    wins: tuple[int, ...]
    level: float


def compare_many(
    models: Sequence[Stats],
    *,
    level: float = 0.95,
    alpha: float = MIXED,
    epsilon: float = 0.0,
    sigma: float | None = None,
    horizon: int | None = None,
    units: np.ndarray | None = None,
) -> Ranked:
    """Compare every two of K models on the same tokens.

    The hypotheses are the ``K (K - 1)`` one-sided nulls "i is not better than j", each with the e-process of
    :func:`~scalebound.certify.compare.compare`; :func:`~scalebound.certify.evalues.e_bh` picks which to reject, whatever their dependence.
    Each end of a decided pair's interval is at confidence ``1 - (1 - level) R / K(K-1)``, R the number of claims made (e-BY), so that among
    the ends that carry a claim the expected share that misses is at most ``1 - level``. An undecided pair's interval is at ``level`` by
    itself; with ``epsilon`` its ends are at ``1 - (1 - level) / K(K-1)`` each, all hold at once, and within epsilon the verdict is "equal".

    Arguments, units and errors as in :func:`~scalebound.certify.compare.compare`; at least two models.

    Source: Wang and Ramdas 2022 (arXiv 2009.02824); Xu, Wang and Ramdas 2022 (arXiv 2203.12572) for the intervals; docs/mathematics.md
    section 10.

    >>> from scalebound.core.stats import StatsInfo
    >>> rng = np.random.default_rng(0)
    >>> base = rng.gamma(2.0, 1.0, 20_000)
    >>> info = StatsInfo(kind="bare", tokens=20_000, window=(0, 20_000))
    >>> files = [Stats(info, {"nll": (base + shift + rng.uniform(0, 0.1, 20_000)).astype("f4")}) for shift in (0.0, 0.1, 0.0)]
    >>> found = compare_many(files)
    >>> found.wins, [pair.verdict for pair in found.pairs]
    ((1, 0, 1), ['better_a', 'undecided', 'better_b'])
    """
    if len(models) < 2:
        raise UsageError(f"{len(models)} model", where="compare", expected="at least two")
    indices = [(i, j) for i in range(len(models)) for j in range(i + 1, len(models))]
    paired = [Paired.of(models[i], models[j], level=level, alpha=alpha, sigma=sigma, horizon=horizon, units=units) for i, j in indices]
    claims = e_bh([value for pair in paired for value in (pair.log_e_a, pair.log_e_b)], 1 - level)
    total, made = len(claims), int(claims.sum())
    # each claim is one side of an interval, so a side may fail with probability (1 - level) R / K(K-1)
    side = (1 - level) * max(made, 1) / total
    wins, out = [0] * len(models), []
    for k, ((i, j), pair) in enumerate(zip(indices, paired, strict=True)):
        a_wins, b_wins = bool(claims[2 * k]), bool(claims[2 * k + 1])
        decided = a_wins != b_wins
        low, high = pair.ends(side if decided else (1 - level) / total if epsilon else (1 - level) / 2)
        verdict: Verdict = ("better_a" if a_wins else "better_b") if decided else "undecided"
        if not decided and verdict_of(low, high, epsilon) == "equal":
            verdict = "equal"
        wins[i] += decided and a_wins
        wins[j] += decided and b_wins
        log_e = float(np.logaddexp(pair.log_e_a, pair.log_e_b)) - float(np.log(2))
        more = pair.more((1 - level) / total, epsilon) if verdict == "undecided" else None
        out.append(Comparison(pair.difference, low, high, level, e_value(log_e), log_e, p_value(log_e), verdict, pair.n, alpha, more))
    return Ranked(tuple(indices), tuple(out), tuple(wins), level)
