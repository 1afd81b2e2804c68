"""``isoflop``: from losses at equal compute to the compute-optimal size, and to its power law.

Per budget C, the loss as a function of log N has a minimum N*(C). It is found on an interpolant of log loss in log N (Akima's: one
noisy point does not bend its neighbours' curve) or on a parabola fitted near the minimum. The position is uncertain because losses are
noisy: noise of the size seen is added many times, all copies are minimised at once, and the spread of the minima gives each budget its
weight in the regression

.. math:: \\log N^*(C) = \\log k + e \\log C, \\qquad D^*(C) = C / (6 N^*(C)).

A minimum at the smallest or largest N of its budget is flagged and left out of the regression: the true one lies beyond.

Whole runs are compared at any budget by interpolating log loss in log flops along each of them. That is the loss of a run of that length
only where the learning rate has not come down: a run that was meant to be longer is still hot there, and the analysis says so.

Source
------
Hoffmann et al. 2022, approach 2; the noise-aware form of Porian et al. 2024, arXiv 2406.19146; Akima 1970, JACM 17.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

import scalebound
from scalebound.core.errors import InputError, UsageError
from scalebound.core.seeds import generator
from scalebound.scaling.fit import check_level
from scalebound.scaling.fitted import BootstrapRecord, DataRecord, Fit, ObjectiveRecord, OptimumRecord
from scalebound.scaling.laws.power import Power
from scalebound.scaling.plan import Estimate
from scalebound.scaling.rows import find_column, find_target
from scalebound.scaling.runs import MIN_SIZES, along_runs, spread_budgets, still_hot
from scalebound.scaling.table import ALIASES, Table, as_table

SAME_BUDGET = 0.05  # relative gap of flops below which rows belong to one budget: sizes times tokens seldom give the same product exactly


@dataclass(frozen=True)
class Budget:
    """The optimum at one compute budget. ``edge``: the best size is the smallest or largest tried."""

    flops: float
    params: float
    tokens: float
    loss: float
    log_std: float  # standard deviation of log params
    edge: bool
    points: int


@dataclass(frozen=True)
class PowerOfCompute:
    """``coefficient * C ** exponent`` with the interval of the exponent, and its draws of (log coefficient, exponent)."""

    exponent: Estimate
    coefficient: Estimate
    draws: np.ndarray = field(repr=False)
    scatter: float = 0.0  # standard deviation of a single budget's log optimum about the line

    def at(self, flops: float, *, level: float = 0.95, seed: int = 0) -> Estimate:
        """The optimum at another budget; the interval includes the scatter of a single budget."""
        log_c = math.log(flops)
        value = math.log(self.coefficient.value) + self.exponent.value * log_c
        if not len(self.draws):
            return Estimate(math.exp(value))
        rng = generator(seed, "isoflop prediction", flops)
        samples = self.draws[:, 0] + self.draws[:, 1] * log_c + self.scatter * rng.standard_normal(len(self.draws))
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
        return Estimate(math.exp(value), math.exp(min(low, value)), math.exp(max(high, value)))


@dataclass(frozen=True)
class IsoFlop:
    """The optima of all budgets and the laws through them."""

    budgets: tuple[Budget, ...]
    params: PowerOfCompute
    tokens: PowerOfCompute
    residuals: tuple[float, ...]  # of log params about the line, inner budgets only
    noise: float  # relative noise of a loss that was assumed
    method: str
    level: float
    warnings: tuple[str, ...]


def akima_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Akima's slope at every node: x (m,), y (..., m), m >= 3. Two slopes are continued linearly beyond each end."""
    slopes = np.diff(y, axis=-1) / np.diff(x)
    left2, left1 = 3 * slopes[..., :1] - 2 * slopes[..., 1:2], 2 * slopes[..., :1] - slopes[..., 1:2]
    right1, right2 = 2 * slopes[..., -1:] - slopes[..., -2:-1], 3 * slopes[..., -1:] - 2 * slopes[..., -2:-1]
    m = np.concatenate([left2, left1, slopes, right1, right2], axis=-1)
    change = np.abs(np.diff(m, axis=-1))
    w1, w2 = change[..., 2:], change[..., :-2]
    total = w1 + w2
    flat = total <= 1e-9 * np.max(total, axis=-1, keepdims=True)
    before, after = m[..., 1:-2], m[..., 2:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(flat, 0.5 * (before + after), (w1 * before + w2 * after) / total)


def akima_minimum(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least point of Akima's interpolant around the least node, exactly: (...,) place, value, whether at an end.

    On each of the two intervals beside the node the interpolant is a cubic; its minimum is a root of a quadratic.
    """
    slope = akima_slopes(x, y)
    m = len(x)
    node = np.argmin(y, axis=-1)
    best_x, best_y = x[node].astype(float), np.take_along_axis(y, node[..., None], -1)[..., 0].copy()
    for side in (-1, 0):
        k = np.clip(node + side, 0, m - 2)
        h = x[k + 1] - x[k]
        y0, y1, s0, s1 = (np.take_along_axis(v, j[..., None], -1)[..., 0] for v, j in ((y, k), (y, k + 1), (slope, k), (slope, k + 1)))
        c = 3 * (y1 - y0) / h**2 - (2 * s0 + s1) / h
        d = 2 * (y0 - y1) / h**3 + (s0 + s1) / h**2
        # derivative s0 + 2 c t + 3 d t^2 = 0; the root with positive second derivative, in the form that does not cancel
        with np.errstate(invalid="ignore", divide="ignore"):
            root = np.sqrt(np.maximum(c * c - 3 * d * s0, 0.0))
            t = np.where(c >= 0, -s0 / (c + root), (root - c) / (3 * d))
        t = np.where(np.isfinite(t) & (c * c - 3 * d * s0 >= 0), np.clip(t, 0, h), 0.0)
        value = y0 + t * (s0 + t * (c + t * d))
        better = value < best_y
        best_x, best_y = np.where(better, x[k] + t, best_x), np.where(better, value, best_y)
    return best_x, best_y, (node == 0) | (node == m - 1)


def parabola_minimum(x: np.ndarray, y: np.ndarray, *, reach: float = math.log(8.0)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertex of the least-squares parabola through the points within a factor of 8 of the least one (at least 4 of them)."""
    flat = y.reshape(-1, len(x))
    out = np.empty((3, len(flat)))
    for row, values in enumerate(flat):
        k = int(np.argmin(values))
        distance = np.abs(x - x[k])
        near = distance <= max(reach, float(np.sort(distance)[min(3, len(x) - 1)]))
        u = x[near] - x[k]
        a, b, c = np.polyfit(u, values[near], 2)
        vertex = -b / (2 * a) if a > 0 else (-np.inf if b > 0 else np.inf)
        inside = u.min() < vertex < u.max()
        at = vertex if inside else u[np.argmin(values[near])]
        out[:, row] = x[k] + at, c + at * (b + a * at), not inside
    shape = y.shape[:-1]
    return out[0].reshape(shape), out[1].reshape(shape), out[2].reshape(shape) > 0


METHODS = {"akima": akima_minimum, "parabola": parabola_minimum}


def isoflop(
    table: Table | str | os.PathLike | Mapping[str, object],
    *,
    target: str | None = None,
    columns: str = "",
    where: str = "",
    budgets: Sequence[float] | int | None = None,
    group: str | None = None,
    method: str = "akima",
    noise: float | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    weighted: bool = True,
    drop_bad: bool = False,
) -> IsoFlop:
    """Compute-optimal size against compute, from runs at equal FLOPs.

    Parameters
    ----------
    table : columns params, flops (or tokens) and loss; one row per run and budget, or, with ``budgets`` and ``group``, whole runs
    budgets : FLOPs at which whole runs are interpolated (log loss in log flops along each run of ``group``); or how many, then spread
        evenly over the compute that at least four sizes reach. Rows within 5% of one another's flops are one budget otherwise
    noise : relative standard deviation of a loss; estimated from the curves' own roughness when not given
    weighted : weights 1/log_std^2 in the regression, each log_std at least a third of the spacing of sizes

    Raises
    ------
    InputError      no budget with at least four sizes and an inner minimum; a row without positive numbers (unless ``drop_bad``)

    Notes
    -----
    Twelve budgets with 1,000 noisy copies take about 15 ms.

    Examples
    --------
    >>> C = np.repeat([1e17, 1e18, 1e19], 9); N = np.tile(np.geomspace(0.1, 10, 9), 3) * 0.1 * C**0.5
    >>> seen = isoflop({"params": N, "flops": C, "loss": 1.7 + 900 / N**0.4 + 900 / (C / (6 * N)) ** 0.4})
    >>> round(seen.params.exponent.value, 2)
    0.5
    """
    if method not in METHODS:
        raise UsageError(f"no method {method!r}", expected=" or ".join(METHODS))
    check_level(level)
    data = as_table(table, columns=columns, where=where)
    N, C, loss, data = _columns(data, target, drop_bad)
    warnings: list[str] = []
    if budgets is not None:
        if group is None:
            raise UsageError("budgets are given but no column says which rows are one run", expected="group=COLUMN")
        run = next((alias for alias in (group, *ALIASES.get(group, ())) if alias in data), None)
        if run is None:
            raise InputError(f"no column {group!r}", where=data.source, expected=f"one of {', '.join(data.columns)}")
        chosen = spread_budgets(N, C, data[run], budgets) if isinstance(budgets, int) else tuple(budgets)
        warnings += still_hot(data, data[run], C, chosen)
        N, C, loss = along_runs(N, C, loss, data[run], chosen)
    seen = isoflop_arrays(N, C, loss, method=method, noise=noise, draws=draws, level=level, seed=seed, weighted=weighted, where=data.source)
    return replace(seen, warnings=(*warnings, *seen.warnings))


def _columns(data: Table, target: str | None, drop_bad: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, Table]:
    """Sizes, flops and losses, every one positive."""
    found: dict[str, str] = {}
    N, C = find_column(data, "params", found), find_column(data, "flops", found)
    _, loss = find_target(data, Power(), target, found)
    good = np.isfinite(N) & np.isfinite(C) & np.isfinite(loss)
    good &= np.where(good, (N > 0) & (C > 0) & (loss > 0), False)
    if not good.all() and not drop_bad:
        k = int(np.flatnonzero(~good)[0])
        raise InputError(
            f"params {N[k]:g}, flops {C[k]:g}, loss {loss[k]:g} are not all positive numbers ({int((~good).sum())} such rows of {len(good)})",
            where=f"{data.source}, row {data.rows[k]}",
            expected="finite numbers, positive sizes",
            hint="leave such rows out with --drop-bad, or filter them with --where",
        )
    return N[good], C[good], loss[good], data.take(good)


def isoflop_arrays(
    N: np.ndarray,
    C: np.ndarray,
    loss: np.ndarray,
    *,
    method: str = "akima",
    noise: float | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    weighted: bool = True,
    where: str = "arrays",
) -> IsoFlop:
    """:func:`isoflop` on arrays: one entry per (size, budget)."""
    warnings = []
    curves = []
    used = 0
    for budget, rows in _budgets(C):
        sizes, inverse = np.unique(N[rows], return_inverse=True)
        best = np.full(len(sizes), np.inf)
        np.minimum.at(best, inverse, loss[rows])  # of several runs of one size the best counts
        if len(sizes) >= MIN_SIZES:
            curves.append((budget, np.log(sizes), np.log(best)))
            used += len(rows)
        else:
            warnings.append(f"budget {budget:.3g} has {len(sizes)} sizes and is left out; {MIN_SIZES} are needed")
    if used < 0.5 * len(C):  # a few of many rows share their flops by chance
        raise InputError(
            f"{used} of {len(C)} rows lie at a budget with {MIN_SIZES} different sizes",
            where=where,
            expected="rows with equal flops and different params",
            hint="for logs of whole runs name the run and the number of budgets: --group run --budgets 8",
        )
    minimum = METHODS[method]
    noise = roughness(curves) if noise is None else noise
    rng = generator(seed, "isoflop noise")
    optima: list[Budget] = []
    for budget, x, y in curves:
        at, value, edge = minimum(x, y)
        copies = y + noise * rng.standard_normal((draws, len(x))) if draws else y[None]
        noisy = minimum(x, copies)[0]
        spacing = float(np.median(np.diff(x)))
        std = max(float(np.std(noisy)), spacing / 3)
        size = float(np.exp(at))
        optima.append(Budget(budget, size, budget / (6 * size), float(np.exp(value)), std, bool(edge), len(x)))
    inner = [k for k, one in enumerate(optima) if not one.edge]
    for one in optima:
        if one.edge:
            warnings.append(
                f"at budget {one.flops:.3g} the best size {one.params:.3g} is the smallest or largest tried: "
                f"the true optimum lies beyond; left out"
            )
    if len(inner) < 2:
        raise InputError(
            f"{len(inner)} budgets have an inner minimum",
            where=where,
            expected="at least 2",
            hint="train smaller or larger sizes at the flagged budgets",
        )
    log_c = np.log([optima[k].flops for k in inner])
    log_n = np.log([optima[k].params for k in inner])
    heft = np.array([1.0 / optima[k].log_std ** 2 for k in inner]) if weighted else np.ones(len(inner))
    line, cloud, scatter = _line(log_c, log_n, heft, draws, generator(seed, "isoflop line"))
    tokens_line = np.array([-math.log(6.0) - line[0], 1.0 - line[1]])
    tokens_cloud = np.stack([-math.log(6.0) - cloud[:, 0], 1.0 - cloud[:, 1]], axis=1)
    return IsoFlop(
        budgets=tuple(optima),
        params=_law(line, cloud, scatter, level),
        tokens=_law(tokens_line, tokens_cloud, scatter, level),
        residuals=tuple(map(float, log_n - line[0] - line[1] * log_c)),
        noise=noise,
        method=method,
        level=level,
        warnings=tuple(warnings),
    )


def _budgets(C: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Flops of each budget (the median of its rows) and its rows. A chain of near neighbours that reaches far is no budget."""
    order = np.argsort(C)
    for part in np.split(order, np.flatnonzero(np.diff(np.log(C[order])) > SAME_BUDGET) + 1):
        if math.log(C[part[-1]] / C[part[0]]) <= 2 * SAME_BUDGET:
            yield float(np.median(C[part])), part
        else:
            yield from ((float(value), part[C[part] == value]) for value in np.unique(C[part]))


def as_fit(seen: IsoFlop, table: Table, *, seed: int = 0) -> Fit:
    """The analysis as a fitted law (``isoflop``: params against flops), to be saved, forecast and compared like any other."""
    inner = [one for one in seen.budgets if not one.edge]
    draws = np.stack([np.exp(seen.params.draws[:, 0]), seen.params.draws[:, 1]], axis=1) if len(seen.params.draws) else np.zeros((0, 2))

    def pair(estimate: Estimate) -> tuple[float, float] | None:
        return None if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)

    residuals = np.array(seen.residuals)
    heft = np.array([1.0 / one.log_std**2 for one in inner])
    return Fit(
        law="isoflop",
        inputs=("flops",),
        target="params",
        params={"k": seen.params.coefficient.value, "e": seen.params.exponent.value},
        intervals={"k": pair(seen.params.coefficient), "e": pair(seen.params.exponent)},
        level=seen.level,
        internal=("log k", "e"),
        covariance=tuple(tuple(map(float, row)) for row in np.cov(seen.params.draws.T)) if len(draws) else None,
        objective=ObjectiveRecord(kind="squares", delta=1e-3, residual="log", asymmetry=0.5, value=float(np.sum(heft * residuals**2))),
        optimum=OptimumRecord(
            established=True,
            reason="a weighted line through the optima: one linear problem",
            gradient_norm=0.0,
            basins=1,
            next_best=None,
            starts=1,
            reached=1,
            at_limit=(),
        ),
        bootstrap=BootstrapRecord(method="residuals", count=len(draws), seed=seed, group=None),
        draws=tuple(tuple(map(float, draw)) for draw in draws),
        residuals=seen.residuals,
        scale=seen.params.scatter,
        data=DataRecord(
            source=table.source,
            sha256=table.sha256,
            columns={},
            where=table.where,
            n=len(inner),
            groups=None,
            ranges={"flops": (inner[0].flops, inner[-1].flops)},
            target_range=(min(one.params for one in inner), max(one.params for one in inner)),
        ),
        warnings=seen.warnings,
        notes=(*table.notes, f"optima of {len(inner)} budgets by {seen.method}; noise of a loss {seen.noise:.2g}"),
        version=scalebound.__version__,
    )


def roughness(curves: list[tuple[float, np.ndarray, np.ndarray]]) -> float:
    """Relative noise of a loss: spread of each point about the cubic through the points near the minimum, pooled over budgets."""
    squares, freedom = 0.0, 0
    for _, x, y in curves:
        k = int(np.argmin(y))
        near = np.sort(np.argsort(np.abs(x - x[k]))[:7])
        if len(near) < 5:
            continue
        u = x[near] - x[near].mean()
        degree = 3 if len(near) >= 6 else 2
        r = y[near] - np.polyval(np.polyfit(u, y[near], degree), u)
        squares += float(r @ r)
        freedom += len(near) - degree - 1
    return math.sqrt(squares / freedom) if freedom else 0.005


def _line(x: np.ndarray, y: np.ndarray, heft: np.ndarray, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Weighted line, draws of it under normal noise with the scale that residuals allow, and that scale for an average budget."""
    centre = float(np.average(x, weights=heft))
    design = np.stack([np.ones_like(x), x - centre], axis=1)
    gram = design.T @ (design * heft[:, None])
    solved = np.linalg.solve(gram, design.T @ (heft * y))
    r = y - design @ solved
    freedom = len(x) - 2
    line = np.array([solved[0] - solved[1] * centre, solved[1]])
    if freedom < 1 or not draws:
        return line, np.zeros((0, 2)), 0.0
    scale2 = float(np.sum(heft * r * r)) / freedom
    root = np.linalg.cholesky(np.linalg.inv(gram))
    spread = np.sqrt(scale2 * freedom / rng.chisquare(freedom, size=draws))
    cloud = solved + spread[:, None] * (rng.standard_normal((draws, 2)) @ root.T)
    cloud = np.stack([cloud[:, 0] - cloud[:, 1] * centre, cloud[:, 1]], axis=1)
    return line, cloud, math.sqrt(scale2 / float(np.mean(heft)))


def _law(line: np.ndarray, cloud: np.ndarray, scatter: float, level: float) -> PowerOfCompute:
    if not len(cloud):
        return PowerOfCompute(Estimate(float(line[1])), Estimate(math.exp(line[0])), cloud, scatter)
    low, high = np.quantile(cloud, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return PowerOfCompute(
        Estimate(float(line[1]), float(low[1]), float(high[1])),
        Estimate(math.exp(line[0]), math.exp(low[0]), math.exp(high[0])),
        cloud,
        scatter,
    )
