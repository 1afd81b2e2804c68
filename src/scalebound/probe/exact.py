"""The two intervals of the probes: exact for a rate, Student's for a mean over seeds."""

from __future__ import annotations

import math

import numpy as np

from scalebound.core.errors import UsageError


def check_level(level: float) -> None:
    """Refuse a confidence outside (0, 1)."""
    if not 0 < level < 1:
        raise UsageError(f"level is {level}", where="level", expected="inside (0, 1)")


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval for the probability of success of independent trials; it covers with at least ``level`` whatever the truth is.

    The ends solve ``P(Bin(n, low) >= k) = P(Bin(n, high) <= k) = (1 - level)/2``: quantiles of Beta(k, n-k+1) and Beta(k+1, n-k).

    Raises
    ------
    UsageError
        level outside (0, 1), or successes outside 0..trials.

    Source: Clopper and Pearson 1934, Biometrika 26(4).

    >>> [round(end, 4) for end in clopper_pearson(0, 10)]
    [0.0, 0.3085]
    """
    from scipy.special import betaincinv

    check_level(level)
    if not 0 <= successes <= trials or trials < 1:
        raise UsageError(
            f"{successes} successes of {trials} trials", where="clopper_pearson", expected="0 <= successes <= trials, trials >= 1"
        )
    half = (1 - level) / 2
    low = float(betaincinv(successes, trials - successes + 1, half)) if successes else 0.0
    high = float(betaincinv(successes + 1, trials - successes, 1 - half)) if successes < trials else 1.0
    return low, high


def over_seeds(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean, and Student's interval for the expected value over seeds; assumes a normal distribution over seeds, which few seeds cannot show.

    >>> [round(x, 3) for x in over_seeds(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.484, 4.484]
    """
    from scipy.special import stdtrit

    check_level(level)
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        raise UsageError(f"{len(values)} seed", where="seeds", expected="at least 2: an interval over seeds needs them")
    radius = float(stdtrit(len(values) - 1, (1 + level) / 2)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), float(values.mean()) - radius, float(values.mean()) + radius
