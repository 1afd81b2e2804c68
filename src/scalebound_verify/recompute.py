"""The bound of a certificate from its statistics: which losses and centres, which ranges, which share of delta (C1, C2, C5)."""

import math
from typing import Any

import numpy as np

from scalebound_verify import bounds
from scalebound_verify.arrays import Statistics

# choices of these settings are paid for in the reference part too; all others concern the model or the difference alone
IN_REFERENCE = {"eps", "reference", "anchor", "window", "grid", "weights", "horizon", "shares", "delta", "method"}

# One supermartingale: losses and centres; per centre its weight, the range Delta, the largest A and the interval it lies in (None for the
# centre 0, whose mean needs no bounding); the bits and the share of delta it pays.
Part = tuple[bounds.Slices, list[float], list[float], list[float], list[tuple[float, float] | None], float, float]

def make_parts(c: dict[str, Any], stats: Statistics, reference: Statistics, array: str) -> list[Part]:
    """The main part and, for an anchored certificate, the reference's, whose losses are ``array`` of ``reference``."""
    alpha, eps, v, code, shares = c["smoothing"]["alpha"], c["smoothing"]["eps"], c["vocab_size"], c["code"], c["delta_shares"]
    log_v, anchored, carry = math.log(v), c["method"] == "anchored", [0.0, 0]
    def referred(start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray]]:
        r = -np.log((1 - eps) * np.exp(-reference.slice(array, start, stop)) + eps / v)
        return r, [np.zeros(len(r))]
    def centre_of(kind: str, start: int, stop: int, x: np.ndarray) -> np.ndarray:
        if kind == "running":  # the mean of all earlier losses; -inf, so that y_min applies, before the first
            before = carry[1] + np.arange(len(x))
            return np.where(before > 0, (carry[0] + np.cumsum(x) - x) / np.maximum(before, 1), -math.inf)
        if kind == "entropy":
            return (1 - alpha) * np.minimum(stats.slice("entropy", start, stop), log_v) + alpha * log_v
        if kind == "kl":
            return np.minimum(stats.slice("centre", start, stop, stats.info["anchor"]["alphas"].index(alpha)), 0.0)
        return np.zeros(len(x))
    def main(start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray]]:
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
    paid = math.fsum(math.log2(choice["options"]) for choice in code["choices"] if choice["setting"] in IN_REFERENCE)
    return [part] if not anchored else [part, (referred, [1.0], [log_v - math.log(eps)], [0.0], [None], paid, shares["reference"])]

def solve(c: dict[str, Any], stats: Statistics, part: Part, quantities: int) -> tuple[float, float, float, float]:
    """Bound of a part, the same without sampling correction, plain mean of X, mean (X - Y)^2 of the first centre that is not 0.
    ``quantities`` share the sampling error of a subsampled certificate equally."""
    (slices, weights, _, largest, intervals, bits, share), ranges, grid = part, np.array(part[2]), np.array(c["grid"])
    n, start, j = c["tokens"]["stream"], c["window"][0] - stats.window[0], len(ranges)
    sums, logs = slice(1, 1 + j), slice(1 + 2 * j, None)
    if c["tokens"]["evaluated"] == n:
        plain = near = total = bounds.gather(slices, start, start + n, ranges, grid)[0] / n
    else:
        width, m, whole = stats.width, stats.sampled, n // stats.width
        row, sd = bounds.gather(slices, 0, m * width, ranges, grid, width)
        rest = bounds.gather(slices, m * width, stats.tokens, ranges, grid)[0] if m * width < stats.tokens else 0.0 * row
        low, high, mean = 0.0 * row, 0.0 * row, row / m
        low[sums], high[sums] = np.array([interval or (0.0, 0.0) for interval in intervals]).T
        low[logs], high[logs] = np.tile(np.log1p(-grid), j), np.log1p(np.outer(largest, grid)).ravel()
        off, far = bounds.radius(m, whole, high - low, sd, c["delta"] * c["delta_shares"]["subsampling"] / quantities), mean.copy()
        far[sums], far[logs] = np.minimum(mean + off, high)[sums], np.maximum(mean - off, low)[logs]
        plain = (mean * m * width + rest) / stats.tokens
        near, total = ((values * whole * width + rest) / n for values in (mean, far))
    with np.errstate(divide="ignore"):
        log_w = np.log(np.outer(weights, np.full(len(grid), 1 / len(grid)) if c["weights"] is None else c["weights"]))
    right = math.log(1 / (c["delta"] * share)) + bits * math.log(2)
    def bound(row: np.ndarray) -> float:
        fixed = (n, row[sums], row[logs].reshape(j, len(grid)), ranges, grid, log_w, right, float(row[0]))
        return (bounds.freedman if c["method"] == "freedman" else bounds.product)(*fixed)
    first = next((k for k, interval in enumerate(intervals) if interval), 0)
    return bound(total), bound(near), float(plain[0]), float(plain[1 + j + first])

def mean_loss(stats: Statistics, start: int, stop: int) -> float:
    """Mean NLL of tokens [start, stop) of the file."""
    total, _ = bounds.gather(lambda first, last: (stats.slice("nll", first, last), []), start, stop, np.zeros(0), np.zeros(0))
    return float(total[0]) / (stop - start)
