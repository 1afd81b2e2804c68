"""Many hypotheses at once: the e-BH procedure, which needs nothing of how the e-values depend on each other.

An e-value is a non-negative statistic whose mean under the null is at most 1. Rejecting where ``e >= K / (R level)`` for the largest R for
which R e-values reach it keeps the expected share of false rejections at ``level``, whatever the dependence; and since each e-value here is
an e-process stopped whenever one likes, so may the whole table be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from scalebound.core.errors import InputError, UsageError


def e_bh(log_e: Sequence[float] | np.ndarray, level: float) -> np.ndarray:
    """Which of K null hypotheses to reject so that the false discovery rate is at most ``level``.

    .. math:: R = \\max\\{r : e_{(r)} \\ge K/(r\\,\\mathrm{level})\\}, \\qquad \\text{reject the } R \\text{ largest}

    Parameters
    ----------
    log_e : (K,)                  natural logarithms of the e-values; minus infinity for e = 0
    level : in (0, 1)

    Returns
    -------
    (K,) bool                     True: rejected

    Raises
    ------
    UsageError                    level out of range
    InputError                    NaN

    Source: Wang and Ramdas 2022 (arXiv 2009.02824).

    >>> e_bh([math.log(100), math.log(3), math.log(45)], 0.05).tolist()
    [True, False, True]
    """
    if not 0 < level < 1:
        raise UsageError(f"level is {level}", where="level", expected="inside (0, 1)")
    values = np.asarray(log_e, dtype=np.float64)
    if np.isnan(values).any():
        raise InputError(f"e-value {int(np.argmax(np.isnan(values)))} is nan", where="log_e", expected="logarithms of numbers of 0 or more")
    total = len(values)
    if not total:
        return np.zeros(0, dtype=bool)
    order = np.argsort(-values, kind="stable")
    enough = values[order] >= math.log(total / level) - np.log(np.arange(1, total + 1))
    rejected = np.zeros(total, dtype=bool)
    if enough.any():
        rejected[order[: int(np.flatnonzero(enough)[-1]) + 1]] = True
    return rejected


def log_sum_exp(values: np.ndarray) -> float:
    """``log sum exp``, right for minus infinity too.

    >>> log_sum_exp(np.array([-np.inf, -np.inf])), log_sum_exp(np.array([0.0, -np.inf]))
    (-inf, 0.0)
    """
    top = float(np.max(values))
    return top if math.isinf(top) else top + math.log(float(np.exp(values - top).sum()))


def e_value(log_e: float) -> float:
    """The e-value itself, stopped at ``exp(700)`` so that it stays a number."""
    return math.exp(min(log_e, 700.0))


def p_value(log_e: float) -> float:
    """``min(1, 1/e)``: by Ville's inequality valid at every stopping time.

    >>> round(p_value(math.log(20)), 12), p_value(-3.0)
    (0.05, 1.0)
    """
    return math.exp(-min(max(log_e, 0.0), 700.0))
