"""From a random sample of blocks to all of them: the sums of :class:`~scalebound.certify.logsums.LogSums` bounded from below, centres from
above.

It is not the mean loss that must be bounded but every quantity of the equation: ``mean log(1 + s A)`` for each s and centre from below,
and each mean centre from above (docs/mathematics.md section 7 and C5). The model and all settings are frozen first, then the blocks are
drawn with a fresh seed: that is the caller's word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scalebound.certify.logsums import GROUP, LogSums, log_products, spread
from scalebound.certify.parts import Part
from scalebound.core.errors import InputError
from scalebound.core.stats import Stats

READ = 1 << 16  # tokens read at a time: larger arrays make the system clear fresh pages at every step
ENOUGH = 600.0  # blocks times rho from which the empirical Bernstein-Serfling inequality is used


def serfling_rho(m: int, total: int) -> float:
    """The factor that drawing m of ``total`` without replacement earns: ``1 - (m-1)/N`` for ``m <= N/2``, else ``(1 - m/N)(1 + 1/m)``.

    >>> serfling_rho(1, 10), serfling_rho(10, 10)
    (1.0, 0.0)
    """
    return 1 - (m - 1) / total if 2 * m <= total else (1 - m / total) * (1 + 1 / m)


def serfling_radius(deviation: np.ndarray | float, width: np.ndarray | float, *, m: int, total: int, delta: float) -> np.ndarray | float:
    """How far the mean of all values may lie on one side of the mean of m drawn without replacement, with probability 1 - delta.

    .. math:: \\hat\\sigma\\sqrt{2\\rho\\log(5/\\delta)/m}+(\\tfrac73+\\tfrac3{\\sqrt2})(b-a)\\log(5/\\delta)/m \\quad\\text{when }
        m\\rho\\ge 600, \\qquad
              (b-a)\\sqrt{\\rho\\log(1/\\delta)/(2m)} \\quad\\text{otherwise}

    The rule looks at m and N only, so it is fixed before the values are seen.

    deviation : standard deviation (divisor m) of the drawn values; width : b - a, the range they cannot leave.

    Source: Bardenet and Maillard 2015 (arXiv 1309.4029), corollary 2.5 and theorem 4.3.

    >>> serfling_radius(0.1, 1.0, m=50, total=50, delta=0.1)
    0.0
    """
    if m >= total:
        return 0.0 * width
    rho = serfling_rho(m, total)
    if m * rho >= ENOUGH:
        log_term = math.log(5 / delta)
        return deviation * math.sqrt(2 * rho * log_term / m) + (7 / 3 + 3 / math.sqrt(2)) * width * log_term / m
    return width * math.sqrt(rho * math.log(1 / delta) / (2 * m))


@dataclass(frozen=True)
class Layout:
    """Which tokens of a window a file holds: ``drawn`` of ``blocks`` equal blocks of ``block_tokens``, then ``ragged`` tokens of the last
    shorter one."""

    n: int
    block_tokens: int
    blocks: int
    drawn: int
    ragged: int

    @property
    def complete(self) -> bool:
        return self.drawn == self.blocks

    @property
    def evaluated(self) -> int:
        return self.drawn * self.block_tokens + self.ragged


def layout_of(stats: Stats, stream_tokens: int) -> Layout:
    """The layout of a file, whose ragged block must be there. Without block structure, tokens are blocks of one."""
    size = stats.info.block_tokens or 1
    blocks, ragged = divmod(stream_tokens, size)
    if len(stats) == stream_tokens:
        return Layout(stream_tokens, size, blocks, blocks, ragged)
    if len(stats) > stream_tokens:
        raise InputError(f"holds {len(stats):,} tokens of a stream of {stream_tokens:,}", where=stats.path, expected="every token once")
    if ragged and (not len(stats.blocks) or stats.blocks[-1] != blocks):
        raise InputError(
            f"lacks the last, shorter block (id {blocks})",
            where=stats.path,
            expected="the ragged block always evaluated",
            hint="measure the sample again with `scalebound measure --sample`, which adds it",
        )
    drawn = (len(stats) - ragged) // size
    if drawn < 1:
        raise InputError("holds no whole block", where=stats.path, expected="at least one drawn block")
    return Layout(stream_tokens, size, blocks, drawn, ragged)


def collect(part: Part, grid: np.ndarray, start: int, stop: int, into: LogSums | None = None) -> LogSums:
    """The exact statistic of tokens [start, stop) of a part, read in stretches."""
    sums = LogSums(grid, part.ranges) if into is None else into
    for first in range(start, stop, READ):
        sums.add(*part.read(first, min(first + READ, stop)))
    return sums


PILOT_WHOLE = 1 << 16  # tokens


def pilot(part: Part, grid: np.ndarray, start: int, stop: int, n: int, pieces: int = 16, length: int = 1024) -> LogSums:
    """The statistic of ``pieces`` stretches of ``length`` tokens spread evenly over [start, stop), of all when there are at most 65,536,
    scaled to n: to choose a setting by, not to bound with."""
    if part.sums is not None:  # all tokens cost no more
        return part.sums(grid)
    stretches = spread(stop - start, pieces, length) if stop - start > PILOT_WHOLE else [(0, stop - start)]
    read = [part.read(start + first, start + last) for first, last in stretches]
    sums = LogSums(grid, part.ranges)
    ys = [np.concatenate([np.broadcast_to(y[j], x.shape) for x, y in read]) for j in range(len(part.ranges))]
    sums.add(np.concatenate([x for x, _ in read]), ys)
    return sums.scaled(n)


class BlockMoments:
    """Mean and spread over blocks of ``mean log(1 + s A)``, of each centre and of the loss; blocks come in batches."""

    def __init__(self, part: Part, grid: np.ndarray) -> None:
        self.part, self.sums = part, LogSums(grid, part.ranges)
        shape = (len(part.ranges), len(grid) + 1)  # the last column is the centre itself
        self.count, self.mean, self.squares, self.mean_x = 0, np.zeros(shape), np.zeros(shape), 0.0

    def add(self, start: int, blocks: int, size: int) -> None:
        """Count the ``blocks`` consecutive blocks of ``size`` tokens that begin at token ``start`` of the file."""
        sums, grid = self.sums, self.sums.grid
        x, ys = self.part.read(start, start + blocks * size)
        values = np.empty((len(ys), len(grid) + 1, blocks))
        for j, y in enumerate(ys):
            b = sums.factors(j, x, y, start).reshape(blocks, size)
            if size < GROUP:
                logs = np.log((1 - grid)[:, None, None] + grid[:, None, None] * b)
            else:
                padded = np.concatenate([b, np.ones((blocks, -size % GROUP))], axis=1)
                logs = log_products(np.ascontiguousarray(padded.reshape(-1, GROUP).T), grid).reshape(len(grid), blocks, -1)
            values[j, :-1] = logs.sum(axis=2) / size
            values[j, -1] = y.reshape(blocks, size).mean(axis=1) if isinstance(y, np.ndarray) else y
        # Chan's update: means and squared deviations of both groups, and the squared distance of their means
        mean = values.mean(axis=2)
        squares = ((values - mean[:, :, None]) ** 2).sum(axis=2)
        total, step = self.count + blocks, mean - self.mean
        self.squares += squares + step**2 * (self.count * blocks / total)
        self.mean += step * (blocks / total)
        self.mean_x += (float(x.mean()) - self.mean_x) * (blocks / total)
        self.count = total


@dataclass(frozen=True)
class Evaluated:
    """The statistic of a whole window: ``plain`` with sample means in place of what was not evaluated, ``safe`` with their one-sided
    limits.

    ``mean_x`` and ``rms`` are plain means over the evaluated tokens: of the loss, and of the squared distance from each centre (its root).
    """

    plain: LogSums
    safe: LogSums
    mean_x: float
    rms: np.ndarray


def evaluate(part: Part, grid: np.ndarray, layout: Layout, *, start: int = 0, delta_each: float = 1.0) -> Evaluated:
    """The statistic of a window, complete (exact) or sampled (each quantity bounded at ``delta_each``)."""
    if part.sums is not None and not layout.complete:
        raise InputError("is a sketch of a part of its window", where="statistics", expected="a sketch of every token: sampling error is bounded block by block", hint="merge the sketches of all blocks")
    if layout.complete:
        sums = collect(part, grid, start, start + layout.n) if part.sums is None else part.sums(grid)
        return Evaluated(sums, sums, sums.mean_x, np.sqrt(sums.sum_squares / sums.n))
    if any(c.kind == "running" for c in part.centres):
        raise InputError(
            "the running mean needs every token of the window", where="centres", expected="complete statistics for this centre"
        )
    moments, size = BlockMoments(part, grid), layout.block_tokens
    batch = max(1, READ // size)
    for first in range(0, layout.drawn, batch):
        moments.add(first * size, min(batch, layout.drawn - first), size)
    ragged = collect(part, grid, layout.drawn * size, layout.evaluated)
    deviation = np.sqrt(moments.squares / moments.count)
    low = np.broadcast_to(np.log1p(-grid), (len(part.ranges), len(grid)))
    high = np.log1p(grid * np.asarray(part.largest)[:, None])
    limits = np.asarray(part.y_limits)
    rule = {"m": layout.drawn, "total": layout.blocks, "delta": delta_each}
    logs = np.maximum(moments.mean[:, :-1] - serfling_radius(deviation[:, :-1], high - low, **rule), low)  # type: ignore[arg-type]
    radius = serfling_radius(deviation[:, -1], limits[:, 1] - limits[:, 0], **rule)  # type: ignore[arg-type]
    centres = np.minimum(moments.mean[:, -1] + radius, limits[:, 1])

    def whole(log_means: np.ndarray, centre_means: np.ndarray) -> LogSums:
        sums = LogSums(grid, part.ranges)
        rest = layout.blocks * size
        sums.n, sums.largest = layout.n, max(moments.sums.largest, ragged.largest)
        sums.sum_x = rest * moments.mean_x + ragged.sum_x
        sums.sum_y = rest * centre_means + ragged.sum_y
        sums.log_sums = rest * log_means + ragged.log_sums
        return sums

    evaluated = layout.evaluated
    return Evaluated(
        plain=whole(moments.mean[:, :-1], moments.mean[:, -1]),
        safe=whole(logs, centres),
        mean_x=(layout.drawn * size * moments.mean_x + ragged.sum_x) / evaluated,
        rms=np.sqrt((moments.sums.sum_squares + ragged.sum_squares) / evaluated),
    )
