"""The sufficient statistic of every bound here: n, the sums of losses and centres, and ``sum log(1 + s A)`` for each s and centre.

It is a handful of numbers, adds up over shards, and is computed exactly (to rounding) at any length: nothing is binned or sampled.

How it is fast. With ``B = 1 + A >= 0`` the product over 16 tokens is a polynomial in s whose terms are all positive::

    prod_i (1 + s A_i) = prod_i ((1 - s) + s B_i) = sum_d (1 - s)^(16 - d) s^d e_d(B_1, .., B_16)

with e_d the elementary symmetric polynomials. These are made once for all s, the sum over d is a matrix product, and one logarithm serves
16 tokens.
Positive terms cannot cancel, so each product is right to about 20 units in the last place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from scalebound.core.errors import InputError, UsageError

GROUP = 16
CHUNK = 1 << 16  # tokens: the polynomials of a chunk fit in the second-level cache
GRID_SLICE = 64  # values of s per matrix product, for the same reason
LARGEST = 1e15  # beyond it the product of 16 factors could overflow


def _elementary(factors: np.ndarray) -> np.ndarray:
    """(16, m) -> (16, m): e_1 .. e_16 of every column, by multiplying halves (1 + e_1 x + ..) together."""
    poly = factors[None]
    while poly.shape[1] > 1:
        half = poly.shape[1] // 2
        left, right = poly[:, :half], poly[:, half:]
        degree = len(left)
        out = np.empty((2 * degree, *left.shape[1:]))
        np.add(left, right, out=out[:degree])
        out[degree:] = 0.0
        for d in range(degree):
            out[d + 1 : d + 1 + degree] += left[d] * right
        poly = out
    return poly[:, 0]


def log_products(factors: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """``log prod ((1 - s) + s B)`` for every s and every column of 16 factors.

    factors : (16, m), >= 0; grid : (values,) in (0, 1). Returns (values, m).

    >>> bool(np.allclose(log_products(np.full((16, 1), 0.5), np.array([0.4])), 16 * np.log(0.8), rtol=1e-14))
    True
    """
    if factors.size and factors.max() > LARGEST:
        return np.log((1 - grid)[:, None, None] + grid[:, None, None] * factors).sum(axis=1)
    degrees = np.arange(1, GROUP + 1)
    coefficients = (1 - grid[:, None]) ** (GROUP - degrees) * grid[:, None] ** degrees
    poly = _elementary(factors)
    out = np.empty((len(grid), factors.shape[1]))
    for start in range(0, len(grid), GRID_SLICE):
        part = slice(start, start + GRID_SLICE)
        product = coefficients[part] @ poly
        product += (1 - grid[part, None]) ** GROUP
        np.log(product, out=out[part])
    return out


def as_grid(grid: Sequence[float] | np.ndarray) -> np.ndarray:
    """The grid as an array, or :class:`UsageError` when a value is outside (0, 1)."""
    values = np.asarray(grid, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.all((values > 0) & (values < 1)):
        raise UsageError("a grid must be a list of numbers inside (0, 1)", where="grid", expected="at least one value, 0 < s < 1")
    return values


class LogSums:
    """``n, sum X, sum Y_j, sum (X - Y_j)^2, sum_k log(1 + s A_jk)`` with ``A_jk = (Y_jk - X_k)/Delta_j``; grows by :meth:`add`, merges by
    :meth:`merge`.

    Parameters
    ----------
    grid : (values,) in (0, 1)
    ranges : (centres,) nats, > 0     Delta_j, with ``X - Y_j <= Delta_j`` always

    Cost: about 15 ns per token and centre for 32 values of s on one core; memory does not grow with tokens.
    """

    def __init__(self, grid: Sequence[float] | np.ndarray, ranges: Sequence[float] | np.ndarray) -> None:
        self.grid = as_grid(grid)
        self.ranges = np.asarray(ranges, dtype=np.float64)
        if self.ranges.ndim != 1 or not len(self.ranges) or not np.all((self.ranges > 0) & np.isfinite(self.ranges)):
            raise UsageError(f"range is {list(self.ranges.ravel())}", where="range_", expected="a positive number of nats for every centre")
        self.n = 0
        self.sum_x = 0.0
        self.sum_y = np.zeros(len(self.ranges))
        self.sum_squares = np.zeros(len(self.ranges))
        self.log_sums = np.zeros((len(self.ranges), len(self.grid)))
        self.largest = 0.0  # of A, for the rounding allowance

    def factors(self, j: int, losses: np.ndarray, centres: np.ndarray | float, first: int = 0) -> np.ndarray:
        """``B = 1 + A`` for centre j, at least 0; :class:`InputError` names the first loss that is NaN or further than the range above its
        centre."""
        out = np.subtract(centres, losses)
        self.sum_squares[j] += float(np.dot(out, out))
        out /= self.ranges[j]
        out += 1.0
        low, high = float(out.min()), float(out.max())
        if not (low >= -1e-10 and high < np.inf):
            index = int(np.argmax(~(out >= -1e-10) | ~np.isfinite(out)))
            raise InputError(
                f"token {first + index} has loss {losses[index]}",
                where="losses",
                expected=f"finite numbers at most {self.ranges[j]:.6g} above their centre",
            )
        self.largest = max(self.largest, high - 1.0)
        return np.maximum(out, 0.0, out=out) if low < 0 else out

    def add(self, losses: np.ndarray, centres: Sequence[np.ndarray | float]) -> None:
        """Count the next tokens: (tokens,) losses and, for every centre, (tokens,) values or one number."""
        for start in range(0, len(losses), CHUNK):
            x = losses[start : start + CHUNK]
            for j, centre in enumerate(centres):
                y = centre[start : start + CHUNK] if isinstance(centre, np.ndarray) else centre
                b = self.factors(j, x, y, self.n)
                short = -len(b) % GROUP
                if short:
                    b = np.concatenate([b, np.ones(short)])  # a factor (1 - s) + s: counts nothing
                self.log_sums[j] += log_products(b.reshape(GROUP, -1), self.grid).sum(axis=1)
                self.sum_y[j] += float(y.sum()) if isinstance(y, np.ndarray) else y * len(x)
            self.sum_x += float(x.sum())
            self.n += len(x)

    def merge(self, other: LogSums) -> LogSums:
        """The statistic of both shards together; a running-mean centre must have restarted at the second's fixed start."""
        if not (np.array_equal(self.grid, other.grid) and np.array_equal(self.ranges, other.ranges)):
            raise UsageError("statistics on different grids or ranges do not add up", where="merge")
        out = LogSums(self.grid, self.ranges)
        out.n, out.sum_x, out.largest = self.n + other.n, self.sum_x + other.sum_x, max(self.largest, other.largest)
        out.sum_y, out.sum_squares, out.log_sums = (
            self.sum_y + other.sum_y,
            self.sum_squares + other.sum_squares,
            self.log_sums + other.log_sums,
        )
        return out

    def scaled(self, n: int) -> LogSums:
        """The statistic n tokens like these would have: for choosing a setting on a part of the stream, never for a bound."""
        out = LogSums(self.grid, self.ranges)
        share = n / self.n
        out.n, out.sum_x, out.largest = n, self.sum_x * share, self.largest
        out.sum_y, out.sum_squares, out.log_sums = self.sum_y * share, self.sum_squares * share, self.log_sums * share
        return out

    @property
    def mean_x(self) -> float:
        return self.sum_x / self.n

    @property
    def mean_y(self) -> np.ndarray:
        return self.sum_y / self.n

    def safe_log_sums(self) -> np.ndarray:
        """The sums lowered by what rounding may have added to them and to the equation they enter.

        First-order worst case in units of n epsilon: an error of 1.5 in X, 1.5 in B and 3 in ``lambda (m - mean Y)``, each of which
        ``log`` multiplies by at most ``s / (1 - s)``; and 4 for products, logarithms and summation.
        """
        s = self.grid
        allowance = 4 + 6 * s * max(1.0, self.largest) / (1 - s)
        return self.log_sums - self.n * np.finfo(np.float64).eps * allowance


def spread(total: int, pieces: int, length: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most ``length`` tokens, evenly spaced over ``total``; all of it when they would cover it.

    >>> list(spread(10, 4, 100)), list(spread(100, 2, 10))
    ([(0, 10)], [(0, 10), (90, 100)])
    """
    if pieces * length >= total:
        yield 0, total
        return
    for k in range(pieces):
        start = k * (total - length) // (pieces - 1)
        yield start, start + length
