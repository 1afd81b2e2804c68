"""``lr-sensitivity``: how much loss a wrong learning rate costs, and at which rate a larger model goes unstable.

.. math:: \\text{sensitivity} = E_{\\eta}\\big[\\min(\\ell(A(\\eta)), \\ell_0) - \\ell^*\\big]

The expectation is over learning rates drawn log-uniformly from a range, :math:`\\ell_0` the loss at initialization (what a diverged run is
counted as), :math:`\\ell^*` the best loss over the range. Between trained rates the loss is taken to be linear in log rate.

Source
------
Wortsman et al. 2023, arXiv 2309.14322.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError


def lr_sensitivity(lr: np.ndarray, loss: np.ndarray, *, initial_loss: float, low: float | None = None, high: float | None = None) -> float:
    """Expected excess loss over log-uniform learning rates.

    Parameters
    ----------
    lr : (rates,) > 0, at least two different   loss : (rates,), NaN or infinite for a diverged run
    initial_loss : what a diverged run counts as, nats
    low, high : the range; that of ``lr`` when not given, never beyond it

    Examples
    --------
    >>> round(lr_sensitivity(np.array([1e-3, 1e-2, 1e-1]), np.array([3.0, 3.0, np.nan]), initial_loss=10.0), 9)
    1.75
    """
    lr, loss = np.asarray(lr, dtype=float), np.asarray(loss, dtype=float)
    if np.any(~np.isfinite(lr) | (lr <= 0)) or len(np.unique(lr)) < 2 or len(np.unique(lr)) != len(lr):
        raise InputError("learning rates must be positive and different", expected="at least two rates, each once")
    order = np.argsort(lr)
    x = np.log(lr[order])
    y = np.minimum(np.where(np.isfinite(loss[order]), loss[order], initial_loss), initial_loss)
    a, b = x[0] if low is None else np.log(low), x[-1] if high is None else np.log(high)
    if a < x[0] - 1e-9 or b > x[-1] + 1e-9 or b <= a:
        raise InputError(
            f"the range {np.exp(a):g} to {np.exp(b):g} is not inside the trained rates", expected=f"{lr.min():g} to {lr.max():g}"
        )
    nodes = np.unique(np.concatenate([[a, b], x[(x > a) & (x < b)]]))
    values = np.interp(nodes, x, y)
    return float(np.trapezoid(values - values.min(), nodes) / (b - a))


@dataclass(frozen=True)
class UnstableRate:
    """The learning rate at which a model of ``params`` is predicted to reach the limit on its logits."""

    params: float
    lr: float
    slope_params: float
    slope_lr: float


def unstable_rate(params: np.ndarray, lr: np.ndarray, max_logit: np.ndarray, *, at: float, limit: float) -> UnstableRate:
    """Extrapolate the growth of attention logits in size and rate: ``log logit = a + b log N + c log lr``, least squares.

    Raises
    ------
    InputError      fewer than four runs, or logits that do not grow with the learning rate
    """
    x = np.stack([np.ones(len(params)), np.log(params), np.log(lr)], axis=1)
    if len(x) < 4 or np.linalg.matrix_rank(x) < 3:
        raise InputError("logits must be known at different sizes and rates", expected="at least four runs")
    a, b, c = np.linalg.lstsq(x, np.log(max_logit), rcond=None)[0]
    if c <= 0:
        raise InputError("logits do not grow with the learning rate in these runs", expected="growth, or no rate is unstable")
    return UnstableRate(at, float(np.exp((np.log(limit) - a - b * np.log(at)) / c)), float(b), float(c))
