"""The values of s a bound mixes over, all fixed in advance from a horizon n0 and never from the data.

The best s of a certificate (long code) lies between 0.6 and 0.97, that of an interval (no code) is of order 1/sqrt(n): a grid holds both.
A value too many costs the logarithm of the number of values, a few nats against code lengths of thousands.
"""

from __future__ import annotations

import math

import numpy as np

from scalebound.core.errors import UsageError

TOP = (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.87, 0.9, 0.92, 0.95, 0.97, 0.98, 0.99)


def default_grid(horizon: int = 10**6) -> np.ndarray:
    """32 values of s for streams of about ``horizon`` tokens.

    16 geometric points from ``min(1e-4, 0.5 / sqrt(horizon))`` to 0.3, then 16 fixed ones up to 0.99.

    Parameters
    ----------
    horizon : tokens, >= 1        n0, named in advance: the length of a window fixed beforehand, not the length a run happened to reach

    Raises
    ------
    UsageError                    horizon below 1

    Source: docs/mathematics.md, section 3 and C6.

    >>> len(default_grid(10**6)), float(default_grid(10**6)[-1])
    (32, 0.99)
    """
    if horizon < 1:
        raise UsageError(f"horizon is {horizon}", where="horizon", expected="at least one token")
    return np.concatenate([np.geomspace(min(1e-4, 0.5 / math.sqrt(horizon)), 0.3, 16), TOP])


DEFAULT_GRID = default_grid()


def paper_grid(size: int = 1000) -> np.ndarray:
    """The uniform grid of Finzi et al. 2025 (arXiv 2504.15208): ``i / (size + 1)``, i = 1..size.

    >>> len(paper_grid()), float(paper_grid(3)[0])
    (1000, 0.25)
    """
    return np.arange(1, size + 1) / (size + 1)


def peaked_grid(*, range_: float, sigma: float | None, horizon: int, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights of s for an interval at code length 0, concentrated where a normal approximation has its optimum.

    With ``s* = range_ sqrt(2 log(1/delta)/horizon)/sigma``: when ``sigma`` was named in advance, weight 0.98 on s* and 0.02 spread over
    eight octaves on either side, so that a wrong sigma costs little and a right one nothing; with ``sigma=None``, equal weights on values
    a factor 1.5 apart for every sigma from 0.05 to 8 nats.

    Parameters
    ----------
    range_ : nats, > 0            Delta of the bound the grid is for
    sigma : nats, > 0, or None    standard deviation of loss minus centre, named in advance
    horizon : tokens, >= 1        n at which the interval should be shortest
    delta : in (0, 1)

    Returns
    -------
    (values,), (values,)          s in (0, 0.99], and weights that sum to 1

    Source: docs/mathematics.md, sections 3 and 10.

    >>> s, w = peaked_grid(range_=10.0, sigma=1.0, horizon=10_000, delta=0.025)
    >>> bool(abs(w.sum() - 1) < 1e-12), round(float(s[w.argmax()]), 3)
    (True, 0.272)
    """
    if not (range_ > 0 and horizon >= 1 and 0 < delta < 1 and (sigma is None or sigma > 0)):
        raise UsageError("range_, sigma and horizon must be positive and delta inside (0, 1)", where="peaked_grid")
    scale = range_ * math.sqrt(2 * math.log(1 / delta) / horizon)
    if sigma is None:
        values = scale / np.geomspace(8.0, 0.05, 1 + math.ceil(math.log(160) / math.log(1.5)))
        weights = np.ones(len(values))
    else:
        values = scale / sigma * 2.0 ** np.concatenate([[0.0], np.arange(-8, 0), np.arange(1, 9)])
        weights = np.concatenate([[0.98], np.full(16, 0.02 / 16)])
    # values beyond 0.99 are brought back to it: several may then coincide and simply share their weight
    return np.minimum(values, 0.99), weights / weights.sum()
