"""Uncertainty of fitted parameters: thousands of refits in one batch.

Resampling rows with replacement only changes how often each row counts, so every resample shares the bound law and all refits are
one batched Newton iteration. Three ways to resample:

* ``rows``: each row independently. Right when rows are separate runs.
* ``groups``: whole groups (a run with all its checkpoints). Right when rows of one run share its luck; rows then overstate certainty.
* ``residuals``: new noise on the fitted curve, its scale drawn from what the residuals allow (``s^2 df / chi^2_df``). Used when there
  are fewer than four rows per parameter: resampling so few rows mostly yields resamples that cannot determine the law at all.

* ``blocks``: stretches of neighbouring rows, for laws of whole curves.

Laws that are dear to evaluate take one Newton step per resample (``cheap_refits`` False) or fewer resamples (``most_refits``).

Source
------
Efron 1979; blocks: Kuensch 1989; for groups Field and Welsh 2007. With a linear law and normal noise the ``residuals``
form gives Student's intervals.
"""

from __future__ import annotations

import numpy as np

from scalebound.core.seeds import generator
from scalebound.scaling.laws.protocol import Bound
from scalebound.scaling.newton import minimise
from scalebound.scaling.objective import Objective

BATCH_NUMBERS = 12_000  # rows x resamples worked on at once: about a megabyte, which stays in cache
ROWS_PER_PARAMETER = 4


def choose_method(n: int, p: int, groups: np.ndarray | None) -> str:
    """``groups`` when there are enough of them, ``rows`` when there are enough rows, else ``residuals`` (``none`` without a spare row)."""
    if groups is not None and len(np.unique(groups)) >= max(p + 1, 6):
        return "groups"
    if n >= ROWS_PER_PARAMETER * p:
        return "rows"
    return "residuals" if n > p else "none"


def resample_weights(method: str, n: int, count: int, rng: np.random.Generator, groups: np.ndarray | None) -> np.ndarray:
    """(count, n): how often each row appears in each resample."""
    if method == "groups":
        assert groups is not None
        number = int(groups.max()) + 1
        present = np.unique(groups)
        picks = rng.integers(0, len(present), size=(count, len(present)))
        tally = np.zeros((count, number))
        np.add.at(tally, (np.arange(count)[:, None], present[picks]), 1.0)
        return tally[:, groups]
    picks = rng.integers(0, n, size=(count, n))
    flat = (picks + np.arange(count)[:, None] * n).ravel()
    return np.bincount(flat, minlength=count * n).reshape(count, n).astype(float)


def refit(
    bound: Bound,
    starts: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    objective: Objective,
    *,
    held: np.ndarray | None = None,
    iterations: int = 60,
) -> tuple[np.ndarray, np.ndarray]:
    """Minima (B, p) and values (B,) for a batch of weights (B, n) and targets (n,) or (B, n), worked on in cache-sized parts.

    ``starts`` is (S, p); every member runs from each and keeps its best.
    """
    B = len(weights) if weights.ndim == 2 else len(y)
    p = starts.shape[1]
    theta, value = np.empty((B, p)), np.full(B, np.inf)
    size = max(8, BATCH_NUMBERS // bound.n)
    for at in range(0, B, size):
        part = slice(at, min(B, at + size))
        w = weights[part] if weights.ndim == 2 else weights
        target = y[part] if y.ndim == 2 else y
        count = part.stop - part.start
        for start in starts:
            found = minimise(
                bound, np.broadcast_to(start, (count, p)), target, w, objective, held=held, iterations=iterations, tolerance=1e-10
            )
            better = found.value < value[part]
            theta[part] = np.where(better[:, None], found.theta, theta[part])
            value[part] = np.where(better, found.value, value[part])
    return theta, value


def one_step(
    bound: Bound, theta: np.ndarray, y: np.ndarray, weights: np.ndarray, objective: Objective, held: np.ndarray | None
) -> np.ndarray:
    """One Newton step from the optimum for every resample (B, n), instead of a refit: first-order equal to it.

    For laws whose evaluation is dear. All resamples share one Jacobian; each step is cut at the limits.
    """
    free = np.ones(len(theta), dtype=bool) if held is None else ~held
    f, jacobian, _ = bound.derivatives(theta[None])
    r = objective.residuals(y, f[0])
    first, _, irls = objective.slopes(r)
    pull = jacobian[0][free] / f[0] if objective.residual == "log" else jacobian[0][free]
    full = weights.mean(axis=0)
    # the matrix of iterated least squares overstates curvature where residuals exceed Huber's width: scale it by what is really quadratic
    window = max(objective.width, 0.5 * float(np.median(np.abs(r))))
    inside = float(np.average(np.abs(r) <= window, weights=full)) * min(1.0, objective.width / window)
    curvature = np.where(np.isinf(objective.width), 1.0, inside)
    matrix = (pull * (full * curvature)) @ pull.T
    matrix += 1e-12 * np.trace(matrix) * np.eye(len(matrix))
    steps = np.linalg.solve(matrix, pull @ (weights * first).T).T
    low, high = bound.law.limits()
    out = np.repeat(theta[None], len(weights), axis=0)
    out[:, free] += steps
    return np.clip(out, low, high)


def blocks(n: int, count: int, rng: np.random.Generator, length: int) -> np.ndarray:
    """(count, n): how often each row appears when runs of ``length`` neighbouring rows are drawn together (moving blocks)."""
    length = min(max(length, 1), n)
    starts = rng.integers(0, n - length + 1, size=(count, -(-n // length)))
    ends = np.zeros((count, n + 1))
    rows = np.arange(count)[:, None]
    np.add.at(ends, (rows, starts), 1.0)
    np.add.at(ends, (rows, starts + length), -1.0)
    return np.cumsum(ends, axis=1)[:, :n]


def bootstrap(
    bound: Bound,
    theta: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    objective: Objective,
    *,
    count: int,
    seed: int,
    groups: np.ndarray | None = None,
    others: np.ndarray | None = None,
    held: np.ndarray | None = None,
) -> tuple[np.ndarray, str]:
    """Draws of the parameters (count, p), internal coordinates, and the method used.

    Parameters
    ----------
    theta : (p,)             the optimum, where every refit starts
    others : (k, p)          further starts (the other basins), so that a resample can change basin
    held : (p,) bool         parameters that were given, not fitted
    """
    n = bound.n
    p = len(theta) if held is None else int((~held).sum())
    method = "blocks" if "curve" in bound.law.inputs else choose_method(int(np.count_nonzero(weights)), p, groups)
    count = min(count, bound.law.most_refits)
    if count == 0 or method == "none":
        return np.zeros((0, len(theta))), "none"
    rng = generator(seed, "bootstrap", method)
    starts = theta[None] if others is None else np.concatenate([theta[None], others])
    if method == "residuals":
        fitted = bound.value(theta[None])[0]
        r = objective.residuals(y, fitted)
        freedom = n - p
        # an objective that ignores outliers needs a scale that does so too, but with so few rows the plain one is the safer
        spread = np.sqrt(np.sum(r * r) / rng.chisquare(freedom, size=count))
        noise = spread[:, None] * rng.standard_normal((count, n))
        new = fitted * np.exp(noise) if objective.residual == "log" else fitted + noise
        return refit(bound, starts, new, weights, objective, held=held)[0], method
    # neighbouring rows of a logged curve share their noise: whole stretches are drawn together
    tally = blocks(n, count, rng, round(n**0.5)) if method == "blocks" else resample_weights(method, n, count, rng, groups)
    if not bound.law.cheap_refits:
        return one_step(bound, theta, y, tally * weights, objective, held), method
    return refit(bound, starts, y, tally * weights, objective, held=held)[0], method
