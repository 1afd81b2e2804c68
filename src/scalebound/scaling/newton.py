"""Damped Newton with the exact Hessian, on many starts or resamples at a time.

The step solves ``(H + lambda G) step = -gradient``: H is the exact Hessian of the objective, G the matrix of iterated least squares,
positive and of the same units, so that damping does not depend on how parameters are scaled. lambda falls after a success
and rises until the objective decreases. Parameters at a limit whose gradient points outwards are held; steps are cut at the limits.

Every array has a leading batch axis; finished members leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalebound.scaling.laws.protocol import Bound
from scalebound.scaling.objective import Objective


@dataclass
class Minima:
    """Where each member of the batch ended."""

    theta: np.ndarray  # (B, p) internal coordinates
    value: np.ndarray  # (B,) penalty, not multiplied by Objective.scale
    gradient_norm: np.ndarray  # (B,) Euclidean, of the penalty over free internal coordinates
    converged: np.ndarray  # (B,) bool


def gradient_and_hessian(
    bound: Bound, theta: np.ndarray, y: np.ndarray, weights: np.ndarray, objective: Objective
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Value (B,), gradient (B, p), exact Hessian (B, p, p) and the matrix of iterated least squares (B, p, p).

    With ``g = log f``: Hessian of rho(log y - g) is ``rho'' dg dg' - rho' ddg``, and ``ddg = ddf/f - dg dg'``.
    """
    f, jacobian, curvature = bound.derivatives(theta)
    r = objective.residuals(y, f)
    first, second, irls = objective.slopes(r)
    value = np.einsum("bn,bn->b", objective.penalty(r), np.broadcast_to(weights, r.shape))
    if objective.residual == "log":
        jacobian = jacobian / f[:, None, :]
        outer = second + first
        inner = first / f
    else:
        outer, inner = second, first
    pulled = weights * first
    gradient = -(jacobian @ pulled[:, :, None])[:, :, 0]
    transposed = jacobian.transpose(0, 2, 1)
    hessian = (jacobian * (weights * outer)[:, None, :]) @ transposed - curvature(weights * inner)
    metric = (jacobian * (weights * irls)[:, None, :]) @ transposed
    return value, gradient, hessian, metric


def minimise(
    bound: Bound,
    theta: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    objective: Objective,
    *,
    held: np.ndarray | None = None,
    limits: tuple[np.ndarray, np.ndarray] | None = None,
    iterations: int = 100,
    tolerance: float = 1e-12,
) -> Minima:
    """Local minima from many starts.

    Parameters
    ----------
    theta : (B, p)          starts, internal coordinates
    y : (n,) or (B, n)
    weights : (n,) or (B, n)
    held : (p,) bool        parameters that stay where they are (profiles)
    limits : two (p,)       internal limits; the law's own when not given
    tolerance : the predicted decrease, relative to the value, at which a member is finished

    Cost: about twenty floating-point operations per member, row and pair of parameters in each iteration.
    """
    low, high = bound.law.limits() if limits is None else limits
    theta = np.clip(np.array(theta, dtype=float), low, high)
    B, p = theta.shape
    y = np.broadcast_to(y, (B, bound.n))
    weights = np.broadcast_to(weights, (B, bound.n))
    value = objective.total(y, bound.value(theta), weights)
    norm = np.full(B, np.inf)
    converged = np.zeros(B, dtype=bool)
    damping = np.full(B, 1e-2)
    active = np.flatnonzero(np.isfinite(value))
    eye = np.eye(p)
    frozen = np.zeros(p, dtype=bool) if held is None else held
    # perfect data have a minimum of zero: relative residuals of 1e-14 are the rounding of the predictions themselves
    nothing = 1e-28 * weights.sum(axis=1)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(iterations):
            if not len(active):
                break
            at, y_at, w_at = theta[active], y[active], weights[active]
            _, gradient, hessian, metric = gradient_and_hessian(bound, at, y_at, w_at, objective)
            stuck = ((at <= low) & (gradient > 0)) | ((at >= high) & (gradient < 0)) | frozen
            gradient = np.where(stuck, 0.0, gradient)
            norm[active] = np.sqrt((gradient**2).sum(axis=1))
            free = ~stuck
            pair = free[:, :, None] & free[:, None, :]
            hessian = np.where(pair, hessian, 0.0) + eye * stuck[:, None, :]
            ridge = 1e-14 * np.einsum("bii->b", metric)[:, None, None] * eye + 1e-300 * eye
            metric = np.where(pair, metric, 0.0) + ridge
            usable = np.isfinite(hessian).all(axis=(1, 2)) & np.isfinite(gradient).all(axis=1)
            pending = np.flatnonzero(usable)
            finished = ~usable
            for _attempt in range(12):
                if not len(pending):
                    break
                rows = active[pending]
                lam = damping[rows]
                matrix = hessian[pending] + lam[:, None, None] * metric[pending]
                step = _solve(matrix, -gradient[pending])
                slope = np.einsum("bp,bp->b", step, gradient[pending])
                # what the model promises; negative means the damped Hessian is not positive along the step
                promised = -0.5 * slope
                trial = np.clip(at[pending] + step, low, high)
                done = ((promised >= 0) & (promised <= tolerance * value[rows]) & (lam <= 1.0)) | (value[rows] <= nothing[rows])
                new = objective.total(y_at[pending], bound.value(trial), w_at[pending])
                better = (new < value[rows]) & (slope < 0)
                small = done & (new <= value[rows] * (1 + 1e-12))
                accepted = better | small
                moved = pending[accepted]
                theta[active[moved]] = trial[accepted]
                gain = value[rows] - new
                value[rows[accepted]] = np.minimum(new[accepted], value[rows[accepted]])
                strong = accepted & (gain > 0.25 * promised)
                damping[rows[strong]] = np.maximum(damping[rows[strong]] * 0.1, 1e-12)
                converged[rows[done]] = True
                finished[pending[done]] = True
                failed = ~accepted & ~done
                damping[rows[failed]] = np.maximum(damping[rows[failed]] * 8.0, 1e-4)
                pending = pending[failed]
            # no step of any damping lowers the value: the rounding of the value itself has been reached, or the surface has a kink
            finished[pending] = True
            active = active[~finished]
    # the gradient at the end, not at the point before the last step
    if B:
        ok = np.isfinite(value)
        if ok.any():
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                _, gradient, _, _ = gradient_and_hessian(bound, theta[ok], y[ok], weights[ok], objective)
            stuck = ((theta[ok] <= low) & (gradient > 0)) | ((theta[ok] >= high) & (gradient < 0)) | frozen
            norm[ok] = np.sqrt((np.where(stuck, 0.0, gradient) ** 2).sum(axis=1))
    return Minima(theta, value, norm, converged)


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Batched solve; a singular member gets a zero step and is damped further by the caller."""
    # parameters differ by many orders of magnitude (a coefficient of 1e6 beside an exponent): solve in units of the diagonal
    unit = 1.0 / np.sqrt(np.abs(np.einsum("bii->bi", matrix)) + 1e-300)
    matrix = matrix * unit[:, :, None] * unit[:, None, :]
    right = right * unit
    try:
        return np.linalg.solve(matrix, right[..., None])[..., 0] * unit
    except np.linalg.LinAlgError:
        out = np.zeros_like(right)
        for k in range(len(right)):
            try:
                out[k] = np.linalg.solve(matrix[k], right[k]) * unit[k]
            except np.linalg.LinAlgError:
                continue
        return out
