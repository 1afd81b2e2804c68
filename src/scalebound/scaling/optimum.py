"""The global optimum, and the evidence for it.

The non-linear parameters of a law are few (one to four). A grid covers them; at each grid point the rest is a linear problem
(:func:`~scalebound.scaling.laws.protocol.profile_coefficients`). The local minima of that profile, and the best points of the grid
besides, are carried to their minima by damped Newton. Thousands of blind starts are replaced by a picture of the whole surface.

What is said at the end:

* ``basins``: how many different local minima were reached, with the next best objective.
* ``established``: the best start converged, its Hessian is positive on the free parameters, more than one start arrived there, and a
  second set of starts taken between the grid points, solved and polished in the same way, found nothing lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalebound.scaling.laws.protocol import Bound
from scalebound.scaling.newton import Minima, gradient_and_hessian, minimise
from scalebound.scaling.objective import Objective

SECOND_OPINIONS = 3
MINIMA = ("theta", "value", "gradient_norm", "converged")
SAME_VALUE = 1e-9  # relative difference of objectives below which two minima are one


@dataclass(frozen=True)
class Optimum:
    """The best minimum and what was seen on the way."""

    theta: np.ndarray  # (p,) internal
    value: float  # the objective as reported (sum over rows, Objective.scale applied)
    gradient_norm: float
    established: bool
    reason: str
    basins: int
    next_best: float | None
    starts: int
    reached: int  # how many starts arrived at the best minimum
    hessian: np.ndarray  # (p, p) internal coordinates, of the penalty
    at_limit: tuple[str, ...]
    minima: np.ndarray  # (basins, p) the distinct minima, best first
    minima_values: np.ndarray  # (basins,) their penalties, not scaled


def local_minima(profile: np.ndarray) -> np.ndarray:
    """Flat positions of the entries of a grid that are no higher than all their neighbours along the axes."""
    lowest = np.isfinite(profile)
    for axis in range(profile.ndim):
        for shift in (1, -1):
            neighbour = np.roll(profile, shift, axis=axis)
            edge: list = [slice(None)] * profile.ndim
            edge[axis] = 0 if shift == 1 else -1
            neighbour[tuple(edge)] = np.inf
            lowest &= profile <= neighbour
    return np.flatnonzero(lowest)


def find(
    bound: Bound,
    y: np.ndarray,
    weights: np.ndarray,
    objective: Objective,
    *,
    extra: np.ndarray | None = None,
    most: int | None = None,
    held: dict[int, float] | None = None,
) -> Optimum:
    """Search the whole range of the non-linear parameters for the global minimum.

    Parameters
    ----------
    y, weights : (n,)
    extra : (k, p)        further starts (published values, a previous fit); optional
    most : starts polished of each of the two sets; the law's own number when not given
    held : {position: internal value} of parameters that are given, not fitted
    """
    law = bound.law
    most = law.polished if most is None else most
    low, high = law.limits()
    theta, shape = bound.starts(y, weights, objective)
    frozen = np.zeros(theta.shape[1], dtype=bool)
    for k, given in (held or {}).items():
        frozen[k] = True
        theta[:, k] = given
    value = objective.total(y, bound.value(theta), weights)
    finite = np.where(np.isfinite(value), value, np.inf)
    chosen = _choose(finite, shape, most)
    starts = theta[chosen]
    if extra is not None and len(extra):
        starts = np.concatenate([starts, np.clip(np.where(frozen, theta[0], extra), low, high)])
    # second opinion: points between grid points of the better half, far from the first set; again while that still finds something lower
    far = np.argsort(finite)[most // 2 : 4 * most]
    minima: Minima | None = None
    for round_ in range(SECOND_OPINIONS):
        best = theta[chosen[0]] if minima is None else minima.theta[int(np.argmin(minima.value))]
        second = _between(theta, far, best, most // 2, round_)
        second = np.where(frozen, second, bound.settled(second, y, weights, objective))
        known = starts if minima is None else np.zeros((0, len(low)))
        found = minimise(bound, np.concatenate([known, second]), y, weights, objective, held=frozen)
        minima = found if minima is None else Minima(*(np.concatenate([getattr(minima, name), getattr(found, name)]) for name in MINIMA))
        first_count = len(minima.value) - len(second)
        if not np.min(minima.value[first_count:]) < np.min(minima.value[:first_count]) * (1 - SAME_VALUE) - 1e-24 * float(np.sum(weights)):
            break
    assert minima is not None
    return _judge(bound, minima, first_count, y, weights, objective, frozen)


def _between(theta: np.ndarray, far: np.ndarray, best: np.ndarray, count: int, round_: int) -> np.ndarray:
    """Starts half-way between grid points; about the only one when a law is linear and its grid is a point."""
    if not len(far):
        return np.concatenate([0.5 * theta, 1.5 * theta])
    pick = far[(np.arange(count) + round_ * count) % len(far)]
    return np.concatenate([0.5 * (theta[pick] + best), 0.5 * (theta[pick] + theta[far[::-1][: len(pick)]])])


def _choose(finite: np.ndarray, shape: tuple[int, ...], most: int) -> np.ndarray:
    """Grid points to polish: the local minima of the profile first, then the best of the rest."""
    valleys = local_minima(finite.reshape(shape))
    valleys = valleys[np.argsort(finite[valleys])][:most]
    ranked = [k for k in np.argsort(finite) if np.isfinite(finite[k])]
    rest = [k for k in ranked if k not in set(valleys.tolist())]
    return np.array([*valleys, *rest[: max(2, most - len(valleys))]], dtype=int)


def _judge(
    bound: Bound, minima: Minima, first: int, y: np.ndarray, weights: np.ndarray, objective: Objective, frozen: np.ndarray
) -> Optimum:
    law = bound.law
    low, high = law.limits()
    order = np.argsort(np.where(np.isfinite(minima.value), minima.value, np.inf))
    best = int(order[0])
    value = float(minima.value[best])
    # a sum of n penalties cannot be known better than this; perfect data have an objective of zero
    floor = 1e-24 * float(np.sum(weights))
    distinct: list[int] = []
    for k in order:
        if not np.isfinite(minima.value[k]) or not minima.converged[k]:
            continue
        if all(minima.value[k] - minima.value[d] > SAME_VALUE * minima.value[d] + floor for d in distinct):
            distinct.append(int(k))
    theta = minima.theta[best]
    reached = int(np.sum(minima.value <= value * (1 + SAME_VALUE) + floor))
    _, gradient, hessian, _ = gradient_and_hessian(bound, theta[None], y, weights, objective)
    stuck = ((theta <= low + 1e-9 * (1 + np.abs(low))) & (gradient[0] >= 0)) | (
        (theta >= high - 1e-9 * (1 + np.abs(high))) & (gradient[0] <= 0)
    )
    at_limit = tuple(name for name, flag in zip(law.names, stuck & ~frozen, strict=True) if flag)
    free = ~(stuck | frozen)
    part = hessian[0][np.ix_(free, free)]
    scale = np.sqrt(np.maximum(np.diag(part), 1e-300))
    lowest = float(np.linalg.eigvalsh(part / np.outer(scale, scale))[0]) if free.any() and np.isfinite(part).all() else 1.0
    reasons = []
    if not minima.converged[best]:
        reasons.append("the best start did not converge")
    if lowest < -1e-8:
        reasons.append("the Hessian at the best point is not positive")
    second = minima.value[first:]
    before = float(np.min(minima.value[:first]))
    if len(second) and np.min(second) < before - SAME_VALUE * before - floor:
        reasons.append("the second set of starts found a lower value than the grid did")
    if reached < 2:
        reasons.append("only one start reached it")
    return Optimum(
        theta=theta,
        value=value * objective.scale,
        gradient_norm=float(minima.gradient_norm[best]),
        established=not reasons,
        reason="; ".join(reasons)
        or f"{reached} of {len(minima.value)} starts, chosen from a profile over the exponents, end there and none lower",
        basins=max(1, len(distinct)),
        next_best=float(minima.value[distinct[1]]) * objective.scale if len(distinct) > 1 else None,
        starts=len(minima.value),
        reached=reached,
        hessian=hessian[0],
        at_limit=at_limit,
        minima=minima.theta[distinct] if distinct else theta[None],
        minima_values=minima.value[distinct] if distinct else np.array([value]),
    )
