"""The inequalities of docs/mathematics.md (C1 to C5), recomputed: one pass over the tokens, then one equation solved by bisection. With X the
loss, Y the centre, X - Y <= Delta, A = (Y - X)/Delta, weights w over s: with probability 1 - delta, m = the mean conditional loss obeys
``logsumexp_js(log w_js - n log(1 - (s/Delta_j)(m - mean Y_j)) + sum_k log(1 + s A_jk)) <= log(1/delta) + L log 2``."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy import ndarray as Array

from scalebound_verify.arrays import Statistics
from scalebound_verify.strict import FORMS, Refused

CHUNK = 1 << 14  # tokens a slice: a row of them stays in the cache
Slices = Callable[[int, int], tuple[Array, list[Array]]]
# losses and centres; per centre its weight, Delta, the largest A, the interval it lies in (None for 0); bits and share of delta it pays
Part = tuple[Slices, list[float], list[float], list[float], list[tuple[float, float] | None], float, float]

def log1p(t: Array) -> Array:
    """``log(1 + t)``: the fast logarithm of the rounded sum, and what its rounding left out (``log(u + e) = log u + e/u``)."""
    u = 1.0 + t
    return np.log(u) + (t - (u - 1.0)) / u

def gather(slices: Slices, start: int, stop: int, ranges: Array, grid: Array, width: int = 0) -> tuple[Array, Array]:
    """Sums over tokens [start, stop) of X, Y_j, (Y_j - X)^2 and log(1 + s A_js), as one row; with ``width``, sums of the means of blocks
    of that many tokens instead, and the standard deviations of those means (divisor: their number)."""
    rows, squares, shift, step = [], [], np.zeros(0), max(1, CHUNK // max(width, 1)) * max(width, 1)
    def columns(x: Array, ys: list[Array]) -> Iterator[Array]:
        yield from (x, *ys, *(np.square(y - x) for y in ys))
        for y, delta in zip(ys, ranges, strict=True):
            a = (y - x) / delta
            if a.min() < -1 - 1e-9:
                raise Refused(f"a loss exceeds its centre by {float((x - y).max())}, more than the range {delta} allows")
            yield from (log1p(s * np.maximum(a, -1.0)) for s in grid)  # a loss exactly at its ceiling may round past it
    for begin in range(start, stop, step):
        parts = columns(*slices(begin, min(begin + step, stop)))
        table = np.array([part.reshape(-1, width).mean(1) if width else part.sum(keepdims=True) for part in parts])
        shift = shift if len(shift) else table.mean(1)  # near the mean, so that the squares keep their digits
        rows.append([math.fsum(row) for row in table])
        squares.append(np.square(table - shift[:, None]).sum(1))
    total = np.array([math.fsum(column) for column in zip(*rows, strict=True)])
    count = (stop - start) // (width or 1)  # of blocks; without them nobody asks for the spread
    return total, np.sqrt(np.maximum(np.sum(squares, axis=0) / count - np.square(total / count - shift), 0.0))

def radius(m: int, total: int, spread: Array, sd: Array, d: float) -> Array:
    """How far the mean of m of ``total`` values, drawn without replacement, may be from the mean of all (one side, probability d)."""
    rho = 1 - (m - 1) / total if m <= total / 2 else (1 - m / total) * (1 + 1 / m)
    if m * rho >= 600:
        return sd * math.sqrt(2 * rho * math.log(5 / d) / m) + (7 / 3 + 3 / math.sqrt(2)) * spread * math.log(5 / d) / m
    return spread * math.sqrt(rho * math.log(1 / d) / (2 * m))

def log_sum(x: Array) -> float:
    return float(x.max() + math.log(np.exp(x - x.max()).sum()))

def product(n: int, y: Array, g: Array, ranges: Array, grid: Array, log_w: Array, right: float, low: float) -> float:
    """Smallest double at which the left side reaches ``right``, or the ceiling ``min(mean Y_j + Delta_j)`` when that is smaller. ``g``:
    means of log(1 + s A) as (centres, grid). At ``low`` = mean X the left side is at most 0 by Jensen's inequality."""
    def left(m: float) -> float:  # increases in m
        return log_sum(log_w + n * (g - np.log1p(-(grid / ranges[:, None]) * (m - y[:, None]))))
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

def make_parts(c: dict[str, Any], stats: Statistics, reference: Statistics, array: str) -> list[Part]:
    """The main part and, for an anchored certificate, the reference's, whose losses are ``array`` of ``reference``."""
    alpha, eps, v, code, shares = c["smoothing"]["alpha"], c["smoothing"]["eps"], c["vocab_size"], c["code"], c["delta_shares"]
    log_v, anchored, carry = math.log(v), c["method"] == "anchored", [0.0, 0]
    def referred(start: int, stop: int) -> tuple[Array, list[Array]]:
        r = -np.log((1 - eps) * np.exp(-reference.slice(array, start, stop)) + eps / v)
        return r, [np.zeros(len(r))]
    def centre_of(kind: str, start: int, stop: int, x: Array) -> Array:
        if kind == "running":  # the mean of all earlier losses; -inf, so that y_min applies, before the first
            before = carry[1] + np.arange(len(x))
            return np.where(before > 0, (carry[0] + np.cumsum(x) - x) / np.maximum(before, 1), -math.inf)
        if kind == "entropy":
            return (1 - alpha) * np.minimum(stats.slice("entropy", start, stop), log_v) + alpha * log_v
        if kind == "kl":
            return np.minimum(stats.slice("centre", start, stop, stats.info["anchor"]["alphas"].index(alpha)), 0.0)
        return np.zeros(len(x))
    def main(start: int, stop: int) -> tuple[Array, list[Array]]:
        p, r = (1 - alpha) * np.exp(-stats.slice("nll", start, stop)), referred(start, stop)[0] if anchored else 0.0
        x = -np.log(p + alpha * (np.exp(-r) if anchored else 1 / v)) - r
        ys = [np.maximum(centre_of(centre["kind"], start, stop, x), centre["y_min"]) for centre in c["centres"]]
        carry[:] = carry[0] + float(x.sum()), carry[1] + len(x)
        return x, ys
    intervals = [None if x["kind"] == "zero" else (x["y_min"], 0.0 if anchored else max(log_v, x["y_min"])) for x in c["centres"]]
    ranges = [(0.0 if anchored else log_v) - math.log(alpha) - x["y_min"] for x in c["centres"]]
    tops = [math.log((1 - alpha) * v / eps + alpha) if anchored else interval[1] if interval else 0.0 for interval in intervals]
    largest, weights = [top / delta for top, delta in zip(tops, ranges, strict=True)], [x["weight"] for x in c["centres"]]
    part: Part = (main, weights, ranges, largest, intervals, code["bits"] + code["choice_bits"], shares["difference"])
    paid = math.fsum(math.log2(choice["options"]) for choice in code["choices"] if choice["setting"] in FORMS["in_reference"])
    return [part] if not anchored else [part, (referred, [1.0], [log_v - math.log(eps)], [0.0], [None], paid, shares["reference"])]

def solve(c: dict[str, Any], stats: Statistics, part: Part, quantities: int) -> tuple[float, float, float, float]:
    """Bound of a part, the same without sampling correction, plain mean of X, mean (X - Y)^2 of the first centre that is not 0.
    ``quantities`` share the sampling error of a subsampled certificate equally."""
    (slices, weights, _, largest, intervals, bits, share), ranges, grid = part, np.array(part[2]), np.array(c["grid"])
    n, start, j = c["tokens"]["stream"], c["window"][0] - stats.window[0], len(ranges)
    sums, logs = slice(1, 1 + j), slice(1 + 2 * j, None)
    if c["tokens"]["evaluated"] == n:
        plain = near = total = gather(slices, start, start + n, ranges, grid)[0] / n
    else:
        width, m, whole = stats.width, stats.sampled, n // stats.width
        row, sd = gather(slices, 0, m * width, ranges, grid, width)
        rest = gather(slices, m * width, stats.tokens, ranges, grid)[0] if m * width < stats.tokens else 0.0 * row
        low, high, mean = 0.0 * row, 0.0 * row, row / m
        low[sums], high[sums] = np.array([interval or (0.0, 0.0) for interval in intervals]).T
        low[logs], high[logs] = np.tile(np.log1p(-grid), j), np.log1p(np.outer(largest, grid)).ravel()
        off, far = radius(m, whole, high - low, sd, c["delta"] * c["delta_shares"]["subsampling"] / quantities), mean.copy()
        far[sums], far[logs] = np.minimum(mean + off, high)[sums], np.maximum(mean - off, low)[logs]
        plain = (mean * m * width + rest) / stats.tokens
        near, total = ((values * whole * width + rest) / n for values in (mean, far))
    with np.errstate(divide="ignore"):
        log_w = np.log(np.outer(weights, np.full(len(grid), 1 / len(grid)) if c["weights"] is None else c["weights"]))
    right = math.log(1 / (c["delta"] * share)) + bits * math.log(2)
    def bound(row: Array) -> float:
        fixed = (n, row[sums], row[logs].reshape(j, len(grid)), ranges, grid, log_w, right, float(row[0]))
        return (freedman if c["method"] == "freedman" else product)(*fixed)
    first = next((k for k, interval in enumerate(intervals) if interval), 0)
    return bound(total), bound(near), float(plain[0]), float(plain[1 + j + first])

def mean_loss(stats: Statistics, start: int, stop: int) -> float:
    """Mean NLL of tokens [start, stop) of the file."""
    total, _ = gather(lambda first, last: (stats.slice("nll", first, last), []), start, stop, np.zeros(0), np.zeros(0))
    return float(total[0]) / (stop - start)
