"""Parts of a certificate from a sketch: sums over cells that are never better than the sums over tokens.

A cell holds c tokens with coordinates (a, b) in ``[a0, a1] x [b0, b1]`` and the sums of both, so their means. With X = g(a), g increasing and
concave, and Y = y(b), y increasing and convex (docs/mathematics.md section 20), ``D = Y - X`` lies between ``D0 = y(b0) - g(a1)`` and ``D1 = y(b1) - g(a0)``, and by
Jensen's inequality its mean in the cell is at least ``D' = y(mean b) - g(mean a)``. ``f(D) = log(1 + s D / Delta)`` is increasing and concave,
so above its chord:

    sum f(D)  >=  c ((1 - t) f(D0) + t f(D1)),      t = (D' - D0) / (D1 - D0)

and ``mean Y`` is at most the chord of y at mean b. So the bound is never below that from the tokens, and above it in second order of the
cells' width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from scalebound.certify.logsums import LogSums
from scalebound.certify.parts import Part, Reader, check_centres
from scalebound.core.certificate import Centre
from scalebound.core.errors import InputError, UsageError
from scalebound.core.sketch import CENTRE, UNIT, Sketch, Table

CELLS = 1 << 14  # cells at once: their logarithms for 32 values of s fit in the cache


class _Cells:
    """Counts, edges and means of a table's cells; means err upwards by at most one unit."""

    def __init__(self, table: Table, b_limits: tuple[float, float]) -> None:
        wide = table.axes[1].bins + 2
        index = (table.cells // wide, table.cells % wide)
        self.count = table.counts.astype(np.float64)
        self.low, self.high, self.mean = [], [], []
        for axis, k, sums in zip(table.axes, index, (table.first, table.second), strict=True):
            low, high = axis.ends(k)
            self.low.append(low)
            self.high.append(high)
            # bins without end have no mean: the end that is worse for the bound, which is the upper one for a, the lower one for b
            self.mean.append(np.minimum(low + sums / self.count * UNIT, high))
        self.mean[0] = np.where(np.isinf(self.low[0]) | np.isinf(self.high[0]), self.high[0], self.mean[0])
        self.mean[1] = np.where(np.isinf(self.low[1]) | np.isinf(self.high[1]), self.low[1], self.mean[1])
        for values in (self.low, self.high, self.mean):
            values[1] = np.clip(values[1], *b_limits)

    def by_first(self, table: Table) -> _Cells:
        """The same tokens counted by their first coordinate alone."""
        wide = table.axes[1].bins + 2
        rows, where = np.unique(table.cells // wide, return_inverse=True)
        counts, first = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        np.add.at(counts, where, table.counts)
        np.add.at(first, where, table.first)
        return _Cells(Table((table.axes[0], table.axes[1]), rows * wide, counts, first, np.zeros_like(first)), (0.0, 0.0))


def _sums(table: Table, grid: np.ndarray, ranges: Sequence[float], centres: Sequence[Centre], smooth, expected, b_limits: tuple[float, float]) -> LogSums:
    """The statistic of a table: ``smooth`` is g, ``expected(centre)`` is y."""
    sums, cells = LogSums(grid, ranges), _Cells(table, b_limits)
    alone = cells.by_first(table)
    sums.n = int(table.counts.sum())
    sums.sum_x = math.fsum(alone.count * smooth(alone.mean[0]))
    for j, centre in enumerate(centres):
        own = alone if centre.kind == "zero" else cells
        y = (lambda b: np.zeros_like(b)) if centre.kind == "zero" else expected(centre)
        (a0, b0), (a1, b1), (a, b) = ((part[0], part[1]) for part in (own.low, own.high, own.mean))
        low, high = y(b0) - smooth(a1), y(b1) - smooth(a0)
        # one unit: the mean of b was rounded up, and must here be rounded down
        middle = np.clip(y(np.maximum(b - UNIT, b0)) - smooth(a), low, high)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(high > low, (middle - low) / (high - low), 0.0)
            rest = np.where(b1 > b0, (b - b0) / (b1 - b0), 0.0)
        low, high = (np.maximum(part / sums.ranges[j], -1.0) for part in (low, high))
        for start in range(0, len(share), CELLS):
            part = slice(start, start + CELLS)
            ends = [np.log1p(sums.grid[:, None] * end[part]) for end in (low, high)]
            sums.log_sums[j] += ((ends[1] - ends[0]) * share[part] + ends[0]) @ own.count[part]
        sums.largest = max(sums.largest, float(high.max(initial=0.0)))
        sums.sum_y[j] = math.fsum(own.count * ((1 - rest) * y(b0) + rest * y(b1)))
        sums.sum_squares[j] = math.fsum(own.count * middle**2)
    return sums


def _no_reading(start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray | float]]:
    raise AssertionError("a sketch is not read by tokens")


READ: Reader = _no_reading


def sketched_uniform_part(sketch: Sketch, vocab_size: int, alpha: float, centres: Sequence[Centre]) -> Part:
    """As :func:`~scalebound.certify.parts.uniform_part`; the centre ``running`` depends on the order of tokens, which a sketch forgets."""
    if any(c.kind == "running" for c in centres):
        raise InputError("keeps no order of tokens, which the centre 'running' needs", where=sketch.path, expected="the centres zero and entropy")
    top, log_v = math.log(vocab_size / alpha), math.log(vocab_size)
    centres = check_centres(centres, ("zero", "entropy"), top)
    ranges = tuple(top - c.y_min for c in centres)

    def smooth(u: np.ndarray) -> np.ndarray:
        return -np.log((1 - alpha) * np.exp(-u) + alpha / vocab_size)

    def expected(centre: Centre):
        return lambda h: np.maximum((1 - alpha) * h + alpha * log_v, centre.y_min)

    return Part(
        centres=centres, ranges=ranges, read=READ, sums=lambda grid: _sums(sketch.tables["loss"], grid, ranges, centres, smooth, expected, (0.0, log_v)),
        largest=tuple(0.0 if c.kind == "zero" else max(log_v, c.y_min) / r for c, r in zip(centres, ranges, strict=True)),
        y_limits=tuple((c.y_min, max(log_v, c.y_min) if c.kind == "entropy" else 0.0) for c in centres),
    )  # fmt: skip


def sketched_reference_part(sketch: Sketch, vocab_size: int, eps: float) -> Part:
    """As :func:`~scalebound.certify.parts.reference_part`."""
    if sketch.info.anchor is None or eps != sketch.info.anchor.eps or "reference" not in sketch.tables:
        raise UsageError(f"eps is {eps}", where=sketch.path, expected=f"{sketch.info.anchor.eps if sketch.info.anchor else 'an anchor'}, with which it was sketched")
    ranges, centres = (math.log(vocab_size / eps),), (Centre(kind="zero"),)

    def smooth(r: np.ndarray) -> np.ndarray:
        return -np.log((1 - eps) * np.exp(-r) + eps / vocab_size)

    return Part(centres=centres, ranges=ranges, largest=(0.0,), y_limits=((0.0, 0.0),), read=READ,
                sums=lambda grid: _sums(sketch.tables["reference"], grid, ranges, centres, smooth, None, (0.0, 0.0)))  # fmt: skip


def sketched_difference_part(sketch: Sketch, vocab_size: int, alpha: float, eps: float, centres: Sequence[Centre]) -> Part:
    """As :func:`~scalebound.certify.parts.difference_part`."""
    top = math.log(1 / alpha)
    centres = check_centres(centres, ("zero", "kl"), top)
    name = f"difference {alpha!r}" if any(c.kind == "kl" for c in centres) else "difference"
    if name not in sketch.tables:
        raise InputError(f"holds no centre for alpha = {alpha}", where=sketch.path, expected="a smoothing that was measured with --anchor")
    if any(c.y_min < CENTRE.low for c in centres):
        raise UsageError(f"y_min is below {CENTRE.low}", where="centres", expected=f"at least {CENTRE.low} for a sketch")
    ranges = tuple(top - c.y_min for c in centres)
    highest = math.log((1 - alpha) * vocab_size / eps + alpha)

    def smooth(v: np.ndarray) -> np.ndarray:
        # the lowest bin has no lower end; no difference can be below that of the range
        return -np.log((1 - alpha) * np.exp(-np.maximum(v, -math.log(vocab_size / eps))) + alpha)

    def expected(centre: Centre):
        return lambda k: np.maximum(k, centre.y_min)

    return Part(centres=centres, ranges=ranges, largest=tuple(highest / r for r in ranges), y_limits=tuple((c.y_min, 0.0) for c in centres), read=READ,
                sums=lambda grid: _sums(sketch.tables[name], grid, ranges, centres, smooth, expected, (CENTRE.low, 0.0)))  # fmt: skip
