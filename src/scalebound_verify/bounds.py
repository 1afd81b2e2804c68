"""The inequalities of docs/mathematics.md (C3, C5), recomputed: one pass over the tokens, then one equation solved by bisection. With X the
loss, Y the centre, X - Y <= Delta, A = (Y - X)/Delta, weights w over s in (0,1): with probability 1 - delta, m = the mean conditional loss
obeys ``logsumexp_js(log w_js - n log(1 - (s/Delta_j)(m - mean Y_j)) + sum_k log(1 + s A_jk)) <= log(1/delta) + L log 2``."""

import math
from collections.abc import Callable

import numpy as np
from numpy import ndarray as Array

from scalebound_verify.strict import Refused

CHUNK = 1 << 17  # tokens a slice; 16 rows of 8,192 stay in the cache
Slices = Callable[[int, int], tuple[np.ndarray, list[np.ndarray]]]

def log_factors(a: np.ndarray, s: float) -> float:
    """``sum_k log(1 + s a_k)``, 16 factors before each logarithm. For small s the running product minus one is kept (``1 + s a`` would
    round s away); near 1 the product itself is (the other would cancel when sixteen losses sit at their ceiling)."""
    rows = np.zeros((16, -(-len(a) // 16)))
    rows.reshape(-1)[: len(a)] = a
    if s < 0.1:
        q = s * rows[0]
        for row in rows[1:]:
            t = s * row
            q += t + q * t
        return float(np.log1p(q).sum())
    return float(np.log(np.prod(1.0 + s * rows, axis=0)).sum())

def gather(slices: Slices, start: int, stop: int, ranges: np.ndarray, grid: np.ndarray, width: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sums over tokens [start, stop) of X, Y_j, (Y_j - X)^2 and log(1 + s A_js), as one row; with ``width``, sums of the means of blocks
    of that many tokens instead, and the standard deviations of those means (divisor: their number)."""
    rows, squares, shift, step = [], [], np.zeros(0), max(1, CHUNK // max(width, 1)) * max(width, 1)
    for begin in range(start, stop, step):
        x, ys = slices(begin, min(begin + step, stop))
        columns = [x, *ys, *(np.square(y - x) for y in ys)]
        sums = [column.reshape(-1, width).mean(1) if width else np.array([column.sum()]) for column in columns]
        for y, delta in zip(ys, ranges, strict=True):
            a = (y - x) / delta
            if a.min() < -1 - 1e-9:
                raise Refused(f"a loss exceeds its centre by {float((x - y).max())}, more than the range {delta} allows")
            a = np.maximum(a, -1.0)  # a loss exactly at its ceiling may round past it
            sums += [np.log1p(float(s) * a).reshape(-1, width).mean(1) if width else np.array([log_factors(a, float(s))]) for s in grid]
        table = np.array(sums)
        shift = shift if len(shift) else table.mean(1)  # near the mean, so that the squares keep their digits
        rows.append([math.fsum(row) for row in table])
        squares.append(np.square(table - shift[:, None]).sum(1))
    total = np.array([math.fsum(column) for column in zip(*rows, strict=True)])
    count = (stop - start) // (width or 1)  # of blocks; without them nobody asks for the spread
    return total, np.sqrt(np.maximum(np.sum(squares, axis=0) / count - np.square(total / count - shift), 0.0))

def radius(m: int, total: int, spread: np.ndarray, sd: np.ndarray, d: float) -> np.ndarray:
    """How far the mean of m of ``total`` values, drawn without replacement, may be from the mean of all (one side, probability d)."""
    rho = 1 - (m - 1) / total if m <= total / 2 else (1 - m / total) * (1 + 1 / m)
    if m * rho >= 600:
        return sd * math.sqrt(2 * rho * math.log(5 / d) / m) + (7 / 3 + 3 / math.sqrt(2)) * spread * math.log(5 / d) / m
    return spread * math.sqrt(rho * math.log(1 / d) / (2 * m))

def product(n: int, y: Array, g: Array, ranges: Array, grid: Array, log_w: Array, right: float, low: float) -> float:
    """Smallest double at which the left side reaches ``right``, or the ceiling ``min(mean Y_j + Delta_j)`` when that is smaller. ``g``:
    means of log(1 + s A) as (centres, grid). At ``low`` = mean X the left side is at most 0 by Jensen's inequality."""
    def left(m: float) -> float:  # increases in m
        terms = log_w + n * (g - np.log1p(-(grid / ranges[:, None]) * (m - y[:, None])))
        return float(terms.max() + math.log(np.exp(terms - terms.max()).sum()))
    high = float((y + ranges).min())
    if left(high) <= right:
        return high
    while low < (middle := low + (high - low) / 2) < high:
        low, high = (middle, high) if left(middle) < right else (low, middle)
    return high

def freedman(n: int, y: Array, g: Array, ranges: Array, grid: Array, log_w: Array, right: float, _: float) -> float:
    """``mean X + min_s Delta (C_s/s + mean v(s A)/s)``, ``C_s = (log(1/(w_s delta)) + L log 2)/n``, ``v(x) = x - log(1+x)``, written as
    ``mean Y + min_s Delta (C_s - mean log(1 + s A))/s``, the same without its cancellation; at most ``mean Y + Delta``."""
    return float(y[0] + min((ranges[0] * ((right - log_w[0]) / n - g[0]) / grid).min(), ranges[0]))
