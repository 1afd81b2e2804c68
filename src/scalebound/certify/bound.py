"""A bound and its parts, and the equations that give it from a :class:`~scalebound.certify.logsums.LogSums`.

``solve_product`` is the default, ``solve_mixture`` its looser form, ``solve_freedman`` the inequality of Finzi et al.; the functions on
arrays in :mod:`~scalebound.certify.product`, :mod:`~scalebound.certify.mixture` and :mod:`~scalebound.certify.freedman` call them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalebound.certify.logsums import LogSums
from scalebound.core.errors import InputError, UsageError


@dataclass(frozen=True)
class Bound:
    """A bound on a mean conditional expectation, in nats per token.

    ``value = mean + complexity + variance`` up to rounding; ``complexity`` is what the length of the code and the confidence cost,
    ``variance`` what the spread of the losses around their centre costs. ``s`` and ``centre`` are the member of the mixture that decides.
    ``root`` is the solution before the ceiling ``min_j(mean Y_j + Delta_j)`` was applied (infinite when the equation has none below it);
    at the ceiling everything is complexity.
    """

    value: float
    mean: float
    complexity: float
    variance: float
    s: float
    centre: int
    root: float
    ceiling: float

    @property
    def gap(self) -> float:
        return self.value - self.mean

    @property
    def at_ceiling(self) -> bool:
        return self.value == self.ceiling

    def negated(self) -> Bound:
        """The bound on the mean of -X read as one on the mean of X."""
        return replace(self, value=-self.value, mean=-self.mean, root=-self.root, ceiling=-self.ceiling)


def check_confidence(delta: float, code_bits: float) -> float:
    """``log(1/delta) + L log 2``, or :class:`UsageError`."""
    if not 0 < delta < 1:
        raise UsageError(f"delta is {delta}", where="delta", expected="inside (0, 1)")
    if not 0 <= code_bits < math.inf:
        raise UsageError(f"code_bits is {code_bits}", where="code_bits", expected="a length of 0 bits or more")
    return math.log(1 / delta) + code_bits * math.log(2)


def log_weights(weights: Sequence[float] | np.ndarray | None, centres: int, values: int) -> np.ndarray:
    """(centres, values) log weights, normalised; ``weights`` is None (uniform), (values,) shared by the centres, or (centres, values)."""
    if weights is None:
        return np.full((centres, values), -math.log(centres * values))
    w = np.asarray(weights, dtype=np.float64)
    if w.shape not in ((values,), (centres, values)) or not np.all((w >= 0) & np.isfinite(w)) or not w.sum() > 0:
        raise UsageError(
            f"weights of shape {w.shape}",
            where="weights",
            expected=f"({values},) or ({centres}, {values}) numbers, none negative, not all 0",
        )
    w = np.broadcast_to(w, (centres, values))
    with np.errstate(divide="ignore"):
        return np.log(w / w.sum())


def _logsumexp(values: np.ndarray) -> float:
    top = float(values.max())
    return top + math.log(float(np.exp(values - top).sum()))


def _increasing_root(function: Callable[[float], float], low: float, high: float) -> float:
    """The upper end of a bisection of an increasing function that is negative at ``low``; infinity when it is still negative at ``high``.

    ``low`` is moved down first if rounding put it past the root.
    """
    if function(high) < 0:
        return math.inf
    step = 1e-12 * max(1.0, abs(low))
    while function(low) > 0:
        low, step = low - step, 2 * step
    while True:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return high
        if function(middle) < 0:
            low = middle
        else:
            high = middle


def _ceiling(sums: LogSums) -> float:
    if not sums.n:
        raise InputError("no losses", where="losses", expected="at least one token")
    return float((sums.mean_y + sums.ranges).min())


def _all_complexity(sums: LogSums, root: float, ceiling: float, s: float, centre: int) -> Bound:
    mean = sums.mean_x
    return Bound(value=ceiling, mean=mean, complexity=ceiling - mean, variance=0.0, s=s, centre=centre, root=root, ceiling=ceiling)


def solve_product(sums: LogSums, log_w: np.ndarray, budget: float) -> Bound:
    """The root of the product martingale's equation (docs/mathematics.md section 3), at most the ceiling, rounded outwards.

    ``log_w`` (centres, values) from :func:`log_weights`; ``budget`` = ``log(1/delta) + L log 2``. Solved for the bound m on the mean:

    .. math:: \\log\\sum_{j,s} w_{js}\\exp\\big(-n\\log(1-(s/\\Delta_j)(m-\\bar Y_j)) + S_{js}\\big) = \\log(1/\\delta) + L\\log 2
    """
    ceiling, n = _ceiling(sums), sums.n
    rates = sums.grid / sums.ranges[:, None]
    mean_y = sums.mean_y[:, None]
    constant = log_w + sums.safe_log_sums()

    def excess(m: float) -> float:
        # inside the bracket every argument is at least -s; the cut only guards the last bit at the ceiling itself
        return _logsumexp(constant - n * np.log1p(-np.minimum(rates * (m - mean_y), sums.grid))) - budget

    root = _increasing_root(excess, min(sums.mean_x, ceiling), ceiling)
    value = min(root, ceiling)
    g = sums.log_sums / n
    with np.errstate(divide="ignore", invalid="ignore"):
        c = np.where(np.isneginf(log_w), -np.inf, g - np.log1p(-np.minimum(rates * (value - mean_y), sums.grid)))
    j, k = np.unravel_index(int(np.argmax(c)), c.shape)
    s, centre = float(sums.grid[k]), int(j)
    if root >= ceiling:
        return _all_complexity(sums, root, ceiling, s, centre)
    complexity = float(-np.exp(g[j, k]) * np.expm1(-c[j, k]) / rates[j, k])
    return Bound(
        value=value,
        mean=sums.mean_x,
        complexity=complexity,
        variance=value - sums.mean_x - complexity,
        s=s,
        centre=centre,
        root=root,
        ceiling=ceiling,
    )


def solve_mixture(sums: LogSums, log_w: np.ndarray, budget: float) -> Bound:
    """As :func:`solve_product` with ``n lambda T`` in place of ``-n log(1 - lambda T)``: looser, since ``1 + x <= exp(x)``."""
    ceiling, n = _ceiling(sums), sums.n
    rates = sums.grid / sums.ranges[:, None]
    mean_y = sums.mean_y[:, None]
    constant = log_w + sums.safe_log_sums()

    def excess(m: float) -> float:
        return _logsumexp(constant + n * rates * (m - mean_y)) - budget

    # no limit on T in this form: the root may lie far above the ceiling, and is reported there too
    high = max(ceiling, float((mean_y + (budget - constant) / (n * rates))[np.isfinite(log_w)].min()))
    root = _increasing_root(excess, min(sums.mean_x, ceiling), high + 1e-9 * max(1.0, abs(high)))
    exponent = constant + n * rates * (min(root, ceiling) - mean_y)
    j, k = np.unravel_index(int(np.argmax(exponent)), exponent.shape)
    s, centre = float(sums.grid[k]), int(j)
    if root >= ceiling:
        return _all_complexity(sums, root, ceiling, s, centre)
    complexity = float(sums.ranges[j]) * budget / n
    return Bound(
        value=root,
        mean=sums.mean_x,
        complexity=complexity,
        variance=root - sums.mean_x - complexity,
        s=s,
        centre=centre,
        root=root,
        ceiling=ceiling,
    )


def solve_freedman(sums: LogSums, log_w: np.ndarray, budget: float) -> Bound:
    """Section 2: ``min_s mean Y + (Delta/s)(C_s - mean log(1 + s A))``, ``C_s = (log(1/(w_s delta)) + L log 2)/n``, over all s and centres.

    With uniform weights ``log(1/w_s) = log |K|``. The first form of the inequality, rearranged: ``v(x) = x - log(1 + x)``.
    """
    ceiling, n = _ceiling(sums), sums.n
    rates = sums.grid / sums.ranges[:, None]
    with np.errstate(invalid="ignore"):
        values = sums.mean_y[:, None] + ((budget - log_w) - sums.safe_log_sums()) / (n * rates)
    j, k = np.unravel_index(int(np.argmin(values)), values.shape)
    root, s, centre = float(values[j, k]), float(sums.grid[k]), int(j)
    if root >= ceiling:
        return _all_complexity(sums, root, ceiling, s, centre)
    complexity = float(sums.ranges[j] * (budget - log_w[j, k]) / n)
    return Bound(
        value=root,
        mean=sums.mean_x,
        complexity=complexity,
        variance=root - sums.mean_x - complexity,
        s=s,
        centre=centre,
        root=root,
        ceiling=ceiling,
    )


def sums_of(losses: np.ndarray, centres: object, range_: float | Sequence[float], grid: Sequence[float] | np.ndarray) -> LogSums:
    """The statistic of whole arrays, checked: ``centres`` is a number, (tokens,), (centres, tokens), or a list that mixes numbers and
    arrays."""
    x = np.asarray(losses, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise InputError(f"losses have shape {x.shape}", where="losses", expected="one axis, at least one token")
    several = isinstance(centres, (list, tuple)) and any(np.ndim(c) for c in centres)
    rows = list(centres) if several or np.ndim(centres) == 2 else [centres]  # type: ignore[call-overload, arg-type]
    parts: list[np.ndarray | float] = []
    for j, row in enumerate(rows):
        y = np.asarray(row, dtype=np.float64)
        if y.shape not in ((), x.shape):
            raise InputError(f"centre {j} has shape {y.shape}", where="centres", expected=f"one number or {x.shape}")
        parts.append(float(y) if y.ndim == 0 else y)
    sums = LogSums(grid, np.broadcast_to(np.atleast_1d(range_), (len(parts),)) if np.size(range_) == 1 else np.asarray(range_))
    if len(sums.ranges) != len(parts):
        raise UsageError(f"{len(sums.ranges)} ranges for {len(parts)} centres", where="range_", expected="one for all or one each")
    sums.add(x, parts)
    return sums


def mirrored(losses: np.ndarray, centres: float | np.ndarray | Sequence) -> tuple[np.ndarray, np.ndarray | list[np.ndarray]]:
    """-X and -Y: an upper bound on the mean of -X is a lower one on that of X. Several centres stay a list.

    >>> mirrored(np.array([1.0, 2.0]), 3.0)[0].tolist(), float(mirrored(np.array([1.0]), 3.0)[1])
    ([-1.0, -2.0], -3.0)
    """
    several = isinstance(centres, (list, tuple))
    below = [-np.asarray(c, dtype=np.float64) for c in centres] if several else -np.asarray(centres, dtype=np.float64)  # type: ignore[union-attr]
    return -np.asarray(losses, dtype=np.float64), below
