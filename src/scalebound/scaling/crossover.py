"""``crossover``: the compute at which two recipes swap order, with an interval, or the plain statement that they do not.

Two fitted laws are compared along one path of growing compute: each at its own compute-optimal size, or both at a given number of tokens
per parameter, or, for laws of one quantity, along that quantity.

Source
------
Xiao 2024, arXiv 2409.15156: methods that win at small scale lose at large; the crossing is what matters.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import UsageError
from scalebound.core.seeds import generator
from scalebound.scaling.fitted import Fit, load_fit
from scalebound.scaling.forecast import law_of
from scalebound.scaling.plan import Estimate, _draws, minimise_over_size

HORIZON = 100.0  # how many times beyond the largest run a crossing is looked for
POINTS = 160


@dataclass(frozen=True)
class Crossover:
    """``flops`` None: no crossing from the smallest run to HORIZON times the largest."""

    quantity: str
    flops: Estimate | None
    probability: float | None  # share of draws that cross in the range
    better_below: str
    better_above: str
    reason: str
    searched: tuple[float, float]


def crossover(
    a: Fit | str | os.PathLike,
    b: Fit | str | os.PathLike,
    *,
    tokens_per_param: float | None = None,
    level: float | None = None,
    seed: int = 0,
) -> Crossover:
    """Where the fitted losses of recipes A and B cross.

    Draws of A and B are paired at random (the two fits are independent). The interval is over the draws that cross within range; when
    fewer than half do, the answer is that none is established.

    Parameters
    ----------
    tokens_per_param : compare both at D = M N instead of at each one's own optimum

    Raises
    ------
    UsageError           the laws read different quantities
    """
    a = a if isinstance(a, Fit) else load_fit(a)
    b = b if isinstance(b, Fit) else load_fit(b)
    level = a.level if level is None else level
    both = {"params", "tokens"}
    sized = both <= set(a.inputs) and both <= set(b.inputs)
    if not sized and a.inputs != b.inputs:
        raise UsageError(f"A reads {', '.join(a.inputs)} and B reads {', '.join(b.inputs)}", expected="two fits of the same quantities")
    if not sized and len(a.inputs) != 1:
        raise UsageError(
            f"laws of {', '.join(a.inputs)} have no single path of growth", expected="laws of params and tokens, or of one quantity"
        )
    quantity = "flops" if sized else a.inputs[0]
    low, largest = _range(a, b, sized)
    x = np.linspace(math.log(low), math.log(largest * HORIZON), POINTS)
    rng = generator(seed, "crossover")
    da, db = _draws(a), _draws(b)
    if len(da) > 1 and len(db) > 1:
        count = min(len(da), len(db)) - 1
        da = np.concatenate([da[:1], da[1:][rng.permutation(len(da) - 1)[:count]]])
        db = np.concatenate([db[:1], db[1:][rng.permutation(len(db) - 1)[:count]]])
    else:
        da, db = da[:1], db[:1]
    gap = _along(a, da, x, sized, tokens_per_param) - _along(b, db, x, sized, tokens_per_param)
    crossings = np.array([_last_crossing(x, row) for row in gap])
    names = ("A", "B")
    first = names[int(gap[0, 0] > 0)]
    last = names[int(gap[0, -1] > 0)]
    found = np.isfinite(crossings)
    share = float(found[1:].mean()) if len(found) > 1 else None
    searched = (low, largest * HORIZON)
    limit = f"{HORIZON:g} times the largest run ({largest:.3g} {quantity})"
    if not found[0]:
        reason = f"not within {limit}: {first} is better throughout"
        if share:
            reason += f"; {share:.0%} of the refits do cross in that range"
        return Crossover(quantity, None, share, first, first, reason, searched)
    if share is not None and share < 0.5:
        reason = (
            f"the fitted curves cross at {math.exp(crossings[0]):.3g}, "
            f"but only {share:.0%} of the refits do: not established within {limit}"
        )
        return Crossover(quantity, None, share, first, last, reason, searched)
    value = math.exp(crossings[0])
    low_end = high_end = None
    if share is not None:
        # refits that never cross count as crossing beyond the range: the interval is then open above
        ends = np.quantile(np.where(found[1:], crossings[1:], np.inf), [(1 - level) / 2, (1 + level) / 2], method="nearest")
        low_end = math.exp(min(ends[0], crossings[0]))
        high_end = math.exp(max(ends[1], crossings[0])) if math.isfinite(ends[1]) else None
    beyond = math.log10(value / largest)
    where = f"{beyond:.1f} decades beyond the largest run" if beyond > 0 else "inside the range of the runs"
    reason = f"{first} is better below, {last} above; {where}" + (
        "" if share is None else f"; {share:.0%} of the refits cross within {limit}"
    )
    return Crossover(quantity, Estimate(value, low_end, high_end), share, first, last, reason, searched)


def _range(a: Fit, b: Fit, sized: bool) -> tuple[float, float]:
    def ends(fit: Fit) -> tuple[float, float]:
        ranges = fit.data.ranges
        if sized:
            return 6 * ranges["params"][0] * ranges["tokens"][0], 6 * ranges["params"][1] * ranges["tokens"][1]
        return ranges[fit.inputs[0]]

    (la, ha), (lb, hb) = ends(a), ends(b)
    return max(min(la, lb), 1e-300), max(ha, hb)


def _along(fit: Fit, draws: np.ndarray, x: np.ndarray, sized: bool, ratio: float | None) -> np.ndarray:
    """(draws, points): loss along the path."""
    law = law_of(fit)
    if not sized:
        return law.predict(draws, {fit.inputs[0]: np.exp(x)})
    out = np.empty((len(draws), len(x)))
    for k, log_c in enumerate(x):
        span = log_c - math.log(6.0)

        def inputs_at(log_n: np.ndarray, span: float = span) -> dict[str, np.ndarray]:
            tokens = np.exp(span - log_n)
            return {"params": np.exp(log_n), "tokens": tokens, "unique_tokens": tokens}

        if ratio is not None:
            out[:, k] = law.predict(draws, inputs_at(np.array([(span - math.log(ratio)) / 2])))[:, 0]
        else:

            def curve(d: np.ndarray, log_n: np.ndarray, at: Callable[[np.ndarray], dict[str, np.ndarray]] = inputs_at) -> np.ndarray:
                return law.predict(d, at(log_n))

            # the value at the optimum needs less precision than its place: it is flat there
            out[:, k] = minimise_over_size(curve, draws, (span - math.log(1e6)) / 2, (span - math.log(1e-3)) / 2, points=41)[1]
    return out


def _last_crossing(x: np.ndarray, gap: np.ndarray) -> float:
    """Where the sign changes for the last time, so that the order above holds for good; infinite without a change."""
    change = np.flatnonzero(np.sign(gap[1:]) * np.sign(gap[:-1]) < 0)
    if not len(change):
        return math.inf
    k = int(change[-1])
    return float(x[k] + (x[k + 1] - x[k]) * gap[k] / (gap[k] - gap[k + 1]))
