"""The inequalities, recomputed: one pass over the tokens, then one equation solved by bisection.

X_k loss, Y_k centre with X_k - Y_k <= Delta, A_k = (Y_k - X_k)/Delta >= -1, s in (0,1) with weights w. With probability 1 - delta
``logsumexp_{j,s}( log w_{j,s} - n log(1 - (s/Delta_j)(m - mean Y_j)) + sum_k log(1 + s A_{j,k}) ) <= log(1/delta) + L log 2`` at m = the
mean conditional loss (docs/mathematics.md, product martingale), so the root of equality bounds it; never above ``mean Y_j + Delta_j``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from scalebound_verify.strict import Refused

CHUNK = 1 << 17  # tokens a slice; 16 rows of 8,192 stay in the cache


def log_factors(a: np.ndarray, s: float) -> float:
    """``sum_k log(1 + s a_k)``, 16 factors before each logarithm, without loss of digits at either end of s.

    For small s the running product minus one is kept (``1 + s a`` would round s away); near 1 the product itself is (the other
    would cancel when sixteen losses sit at their ceiling). ``a`` has 16 rows.
    """
    if s < 0.1:
        q = s * a[0]
        for row in a[1:]:
            t = s * row
            q += t + q * t
        return float(np.log1p(q).sum())
    p = 1.0 + s * a[0]
    for row in a[1:]:
        p *= 1.0 + s * row
    return float(np.log(p).sum())


@dataclass
class Sums:
    """What the tokens leave behind: n, mean X, mean Y_j, and ``logs[j][s]`` = sum_k log(1 + s A_jk)."""

    ranges: list[float]
    grid: np.ndarray
    n: int = 0
    parts: list[list[float]] = field(default_factory=list)  # a row a slice: sum X, sums Y_j, sums (Y_j - X)^2, then logs by (j, s)
    block_means: list[np.ndarray] = field(default_factory=list)  # a row a full block, as parts but means; only when subsampled

    def add(self, x: np.ndarray, centres: list[np.ndarray | float]) -> list[float]:
        """Take in one slice of tokens, summed as one row, which is also returned."""
        ys = [np.broadcast_to(np.asarray(y, float), x.shape) for y in centres]
        row, logs = [float(x.sum()), *(float(y.sum()) for y in ys), *(float(np.square(y - x).sum()) for y in ys)], []
        for y, delta in zip(ys, self.ranges, strict=True):
            a = (y - x) / delta
            if a.min() < -1 - 1e-9:
                raise Refused(f"a loss exceeds its centre by {float((x - y).max())}, more than the range {delta} allows")
            padded = np.zeros((16, -(-len(a) // 16)))
            padded.reshape(-1)[: len(a)] = np.maximum(a, -1.0)  # a loss exactly at its ceiling may round past it
            logs += [log_factors(padded, float(s)) for s in self.grid]
        self.n += len(x)
        self.parts.append(row + logs)
        return self.parts[-1]

    def totals(self) -> np.ndarray:
        return np.array([math.fsum(column) for column in zip(*self.parts, strict=True)])

    def means(self) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """mean X, mean Y_j, mean (Y_j - X)^2, and the means of log(1 + s A) as (centres, grid)."""
        mean, j = self.totals() / self.n, len(self.ranges)
        return float(mean[0]), mean[1 : 1 + j], mean[1 + j : 1 + 2 * j], mean[1 + 2 * j :].reshape(j, len(self.grid))


def gather(slices: Iterable[tuple[np.ndarray, list[np.ndarray | float]]], ranges: list[float], grid: np.ndarray) -> Sums:
    """Sum over all slices of (losses, centres)."""
    sums = Sums(ranges, grid)
    for x, centres in slices:
        sums.add(x, centres)
    return sums


def left_side(m: float, n: int, y: np.ndarray, logs: np.ndarray, ranges: np.ndarray, grid: np.ndarray, log_w: np.ndarray) -> float:
    """The left side of the equation at m, for arrays (centres, grid); increasing in m."""
    terms = log_w - n * np.log1p(-(grid / ranges[:, None]) * (m - y[:, None])) + logs
    top = terms.max()
    return float(top + math.log(np.exp(terms - top).sum()))


def product_root(n: int, low: float, y: np.ndarray, g: np.ndarray, ranges: np.ndarray, grid: np.ndarray, weights: np.ndarray,
                 right: float) -> tuple[float, bool]:
    """Smallest double at which the left side reaches ``right``, or the ceiling ``min(mean Y_j + Delta_j)`` (then the flag is True).

    ``low`` = mean X starts the bracket: there the left side is at most 0 by Jensen's inequality. ``g``: means of log(1 + s A).
    """
    with np.errstate(divide="ignore"):
        log_w = np.log(weights)
    high = float((y + ranges).min())
    fixed = (n, y, n * g, ranges, grid, log_w)
    if left_side(high, *fixed) <= right:
        return high, True
    low = min(low, high)
    while low < (middle := low + (high - low) / 2) < high:
        low, high = (middle, high) if left_side(middle, *fixed) < right else (low, middle)
    return high, False


def freedman(n: int, y: float, g: np.ndarray, range_: float, grid: np.ndarray, delta: float, bits: float) -> tuple[float, bool]:
    """``mean X + min_s Delta (C/s + mean v(s A)/s)``, C = (log(|K|/delta) + L log 2)/n, v(x) = x - log(1+x); written as
    ``mean Y + min_s Delta (C - mean log(1 + s A))/s``, the same without the cancellation. At most ``mean Y + Delta``."""
    c = (math.log(len(grid) / delta) + bits * math.log(2)) / n
    value = y + float((range_ * (c - g) / grid).min())
    return min(value, y + range_), value >= y + range_
