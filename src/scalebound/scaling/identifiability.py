"""What the data say about each parameter: profile curves, profile intervals, and flatness in words.

.. math:: F_j(v) = \\min_{\\theta:\\,\\theta_j = v} F(\\theta)

A profile that stays low over a wide range means that the data do not tell these values apart, however small a standard error looks.
The interval holds the values whose profile rises by less than a threshold. For squares it is that of the likelihood ratio; for Huber's
penalty it is scaled by what the penalty's slope and curvature measure at the residuals,

.. math:: F_j(v) - F_{\\min} \\le \\tfrac12 \\chi^2_{1,\\text{level}}\\;
    \\frac{\\overline{\\rho'(r)^2}}{\\overline{\\rho''(r)}}\\; \\frac{n}{n-p}.

Source
------
Quasi-likelihood ratio: Heritier and Ronchetti 1994, JASA 89; profiles: Bates and Watts 1988, chapter 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scalebound.scaling.laws.protocol import Bound
from scalebound.scaling.newton import minimise
from scalebound.scaling.objective import Objective

FLAT = 0.005  # a rise of the objective by this share is called flat


@dataclass(frozen=True)
class Profile:
    """The profile of one parameter, natural units. ``low``/``high`` None: the data set no limit on that side."""

    name: str
    values: np.ndarray  # (points,)
    objective: np.ndarray  # (points,) as reported
    low: float | None
    high: float | None
    level: float
    flat_low: float  # range in which the objective is within 0.5% of the minimum
    flat_high: float
    words: str


def threshold(residuals: np.ndarray, objective: Objective, p: int, level: float, weights: np.ndarray) -> float:
    """Rise of the penalty (not multiplied by its scale) that a value inside the interval may show."""
    from scipy.special import chdtri

    n = len(residuals)
    first, _, _ = objective.slopes(residuals)
    # the curvature is a fraction of rows inside a window; a window narrower than the bulk of residuals would make it a lottery
    window = max(objective.width, 0.5 * float(np.median(np.abs(residuals))))
    inside = np.average(np.abs(residuals) <= window, weights=weights)
    curvature = inside * (min(objective.width, window) / window if np.isfinite(window) else 1.0)
    slope = np.average(first**2, weights=weights)
    return 0.5 * float(chdtri(1, 1 - level)) * float(slope / max(curvature, 1e-12)) * n / max(n - p, 1)


def profile(
    bound: Bound,
    theta: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    objective: Objective,
    index: int,
    *,
    level: float = 0.95,
    points: int = 41,
    held: np.ndarray | None = None,
    others: np.ndarray | None = None,
) -> Profile:
    """The profile of parameter ``index`` around the optimum ``theta`` (p,), as far as it matters or the limits allow.

    ``others`` (k, p) are further minima: each step also starts from them, so that the profile changes valley where that is lower.

    Raises nothing: a parameter that cannot be profiled has both ends open and says so.
    """
    law = bound.law
    parameter = law.parameters[index]
    low, high = law.limits()
    fixed = np.zeros(len(theta), dtype=bool) if held is None else held.copy()
    fixed[index] = True
    value0 = float(objective.total(y, bound.value(theta[None]), weights)[0])
    rise = threshold(objective.residuals(y, bound.value(theta[None])[0]), objective, len(theta), level, weights)
    ends: dict[int, float | None] = {}
    curve: list[tuple[float, float]] = [(float(theta[index]), value0)]
    for sign in (-1, 1):
        limit = float(high[index] if sign > 0 else low[index])
        seen, ends[sign] = _one_side(bound, theta, y, weights, objective, index, sign, limit, value0, rise, fixed, points // 2, others)
        curve += seen
    curve.sort()
    x = np.array([at for at, _ in curve])
    f = np.array([value for _, value in curve])
    natural = parameter.natural(x)
    flat_low, flat_high = (float(parameter.natural(_last_below(x, f, value0 * (1 + FLAT) + 1e-300, sign))) for sign in (-1, 1))
    bounds = {sign: None if end is None else float(parameter.natural(end)) for sign, end in ends.items()}
    words = _words(
        parameter.name, float(parameter.natural(theta[index])), bounds[-1], bounds[1], natural, parameter.transform == "log", level
    )
    return Profile(parameter.name, natural, f * objective.scale, bounds[-1], bounds[1], level, flat_low, flat_high, words)


def _last_below(x: np.ndarray, f: np.ndarray, level: float, sign: int) -> float:
    """The outermost place on one side where the curve is at the level, between its points by a straight line."""
    below = np.flatnonzero(f <= level)
    k = int(below[-1] if sign > 0 else below[0])
    if not 0 <= k + sign < len(x):
        return float(x[k])
    share = (level - f[k]) / max(f[k + sign] - f[k], 1e-300)
    return float(x[k] + share * (x[k + sign] - x[k]))


def _one_side(
    bound: Bound,
    theta: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    objective: Objective,
    index: int,
    sign: int,
    limit: float,
    value0: float,
    rise: float,
    fixed: np.ndarray,
    points: int,
    others: np.ndarray | None,
) -> tuple[list[tuple[float, float]], float | None]:
    """Walk outwards in growing steps until the rise is passed twice over or the limit is met; each step starts from the last."""
    scale = max(abs(float(theta[index])), 0.05)
    step = 0.002 * scale
    at = theta.copy()
    seen: list[tuple[float, float]] = []
    previous, end = value0, None
    direction = np.zeros_like(theta)
    for _ in range(4 * points):
        x = at[index] + sign * step
        hit = sign * (x - limit) >= 0
        start = at + direction * step
        start[index] = limit if hit else x
        candidates = [start, at.copy(), *([] if others is None else others.copy())]
        for candidate in candidates:
            candidate[index] = start[index]
        found = minimise(bound, np.stack(candidates), y, weights, objective, held=fixed, iterations=40, tolerance=1e-9)
        best = int(np.argmin(found.value))
        value = float(found.value[best])
        if not math.isfinite(value):
            break
        direction = (found.theta[best] - at) / max(abs(found.theta[best][index] - at[index]), 1e-300)
        if end is None and value - value0 > rise:
            share = (rise - (previous - value0)) / max(value - previous, 1e-300)
            end = float(at[index] + min(max(share, 0.0), 1.0) * (found.theta[best][index] - at[index]))
        growth = (value - previous) / max(rise, 1e-300)
        at, previous = found.theta[best], value
        seen.append((float(at[index]), value))
        if hit or value - value0 > 2 * rise:
            break
        # aim at a tenth to a fifth of the threshold per step
        step *= 2.0 if growth < 0.08 else 0.6 if growth > 0.25 else 1.0
    return seen, end


def _words(name: str, value: float, low: float | None, high: float | None, seen: np.ndarray, is_log: bool, level: float) -> str:
    def show(x: float) -> str:
        return f"{x:.4g}"

    if low is None and high is None:
        return f"{name} is not identified: every value from {show(seen.min())} to {show(seen.max())} fits about as well as {show(value)}"
    if high is None:
        return f"{name} is not bounded above: anything from {show(float(low or 0.0))} up fits about as well as {show(value)}"
    if low is None:
        return f"{name} is not bounded below: anything up to {show(high)} fits about as well as {show(value)}"
    if is_log and low > 0 and high / low > 30:
        return f"{name} is known only to {math.log10(high / low):.1f} decades ({show(low)} to {show(high)})"
    return f"{name} is identified: {show(low)} to {show(high)} ({level:.0%} profile interval)"


def profiles(
    bound: Bound,
    theta: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    objective: Objective,
    *,
    level: float = 0.95,
    held: np.ndarray | None = None,
    others: np.ndarray | None = None,
) -> list[Profile]:
    """:func:`profile` of every free parameter."""
    free = [k for k in range(len(theta)) if held is None or not held[k]]
    return [profile(bound, theta, y, weights, objective, k, level=level, held=held, others=others) for k in free]


MOST_COMPARED = 2000  # rows; distances between all pairs beyond that cost more than the fit


def neighbour_correlation(inputs: dict[str, np.ndarray], residuals: np.ndarray, groups: np.ndarray | None = None) -> float | None:
    """Correlation of each row's residual with that of the nearest row (in standardised log inputs, of another group); None for few rows.

    Resampling rows takes them to err independently. Where the curve is wrong in a region, or runs share their luck, neighbours err alike,
    and intervals come out too narrow, by about ``sqrt((1 + r) / (1 - r))`` if residuals fade like a random walk. Outliers count as three
    spreads. Moran's test of spatial statistics with one neighbour; a permutation has mean 0 and standard deviation about ``1/sqrt(n)``.
    """
    n = len(residuals)
    r = residuals - np.median(residuals)
    spread = 1.4826 * float(np.median(np.abs(r)))
    if not 20 <= n <= MOST_COMPARED or not spread > 1e-9:
        return None
    r = np.clip(r, -3 * spread, 3 * spread)
    r -= r.mean()
    x = np.stack([np.log(values) if np.all(values > 0) else values for values in inputs.values()], axis=1)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)
    squares = (x * x).sum(axis=1)
    distance = squares[:, None] + squares[None, :] - 2 * x @ x.T
    distance[np.eye(n, dtype=bool) if groups is None else groups[:, None] == groups[None, :]] = np.inf
    if groups is not None and len(np.unique(groups)) < 2:
        return None
    nearest = np.argmin(distance, axis=1)
    return min(float(np.mean(r * r[nearest]) / np.mean(r * r)), 1.0)
