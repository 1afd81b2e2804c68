"""``lr-sensitivity``: how much loss a wrong learning rate costs, and at which rate a larger model goes unstable.

.. math:: \\text{sensitivity} = E_{\\eta}\\big[\\min(\\ell(A(\\eta)), \\ell_0) - \\ell^*\\big]

The expectation is over learning rates drawn log-uniformly from a range, :math:`\\ell_0` the loss at initialization (what a diverged run is
counted as), :math:`\\ell^*` the best loss over the range. Between trained rates the loss is taken to be linear in log rate.

A rate is called *unstable* when its loss gives back a tenth of what the best rate gains over guessing:
:math:`\\ell(\\eta) > \\ell^* + (\\ell_0 - \\ell^*)/10`; the *onset* is the smallest such rate above the best. The largest attention logit grows as a
power of the rate and of the size; the logit that smaller models had at their onset, reached by the extrapolated growth, is where a larger
model's onset is forecast (:func:`forecast_onset`; :func:`unstable_rate` is the same for one power of size and rate and a given limit).

Source
------
Wortsman et al. 2023, arXiv 2309.14322.
"""

from __future__ import annotations

from collections.abc import Sequence
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


SHARE = 0.1  # of the gain over guessing that an unstable rate gives back


@dataclass(frozen=True)
class BestRate:
    """The learning rate of least loss; ``at_edge`` when it is the smallest or largest that was tried."""

    lr: float
    loss: float
    at_edge: bool


def best_rate(lr: np.ndarray, loss: np.ndarray) -> BestRate:
    """The optimum of a sweep: the vertex of the parabola through the best rate and its neighbours, in log rate.

    Examples
    --------
    >>> found = best_rate(np.array([1e-3, 1e-2, 1e-1]), np.array([2.0, 1.0, 2.0]))
    >>> round(found.lr, 9), round(found.loss, 9), found.at_edge
    (0.01, 1.0, False)
    """
    lr, loss = np.asarray(lr, dtype=float), np.asarray(loss, dtype=float)
    keep = np.isfinite(loss)
    if keep.sum() < 1:
        raise InputError("no run of the sweep has a loss", expected="at least one that did not diverge")
    order = np.argsort(lr[keep])
    x, y = np.log(lr[keep][order]), loss[keep][order]
    k = int(np.argmin(y))
    if k in (0, len(x) - 1):
        return BestRate(float(np.exp(x[k])), float(y[k]), True)
    a, b, c = np.polyfit(x[k - 1 : k + 2] - x[k], y[k - 1 : k + 2], 2)
    shift = float(-b / (2 * a)) if a > 0 else 0.0
    return BestRate(float(np.round(np.exp(x[k] + shift), 15)), float(c + b * shift + a * shift**2), False)


def onset(lr: np.ndarray, loss: np.ndarray, *, initial_loss: float, share: float = SHARE) -> float | None:
    """The smallest unstable rate above the best (see the module), between trained rates linear in log rate; None when no trained rate is unstable.

    Examples
    --------
    >>> round(onset(np.array([1e-3, 1e-2, 1e-1]), np.array([2.0, 2.0, 3.0]), initial_loss=7.0), 4)
    0.0316
    """
    lr, loss = np.asarray(lr, dtype=float), np.asarray(loss, dtype=float)
    order = np.argsort(lr)
    x = np.log(lr[order])
    y = np.minimum(np.where(np.isfinite(loss[order]), loss[order], initial_loss), initial_loss)
    k = int(np.argmin(y))
    level = y[k] + share * (initial_loss - y[k])
    for j in range(k + 1, len(x)):
        if y[j] > level:
            return float(np.exp(x[j - 1] + (level - y[j - 1]) / (y[j] - y[j - 1]) * (x[j] - x[j - 1])))
    return None


@dataclass(frozen=True)
class OnsetForecast:
    """Where a model of ``params`` is forecast to go unstable; ``lr`` None when no smaller model did, with the reason."""

    params: float
    lr: float | None
    limit: float | None  # the attention logit at which the smaller models went unstable
    sizes: int  # that the forecast rests on
    reason: str = ""


def forecast_onset(curves: Sequence[tuple[float, np.ndarray, np.ndarray, np.ndarray]], *, at: float, initial_loss: float) -> OnsetForecast:
    """Forecast the unstable rate of a larger model from the sweeps of smaller ones.

    At every rate the largest attention logit is extrapolated as a power of the size (it needs two sizes). The limit is what the smaller models'
    logits were at their own onsets, carried on as a power of the size as well. The forecast is the rate at which the first reaches the second, with
    the logits between rates, and beyond the last, a power of the rate.

    Parameters
    ----------
    curves : one ``(params, lr, loss, max_logit)`` per size, on the same rates; logits NaN where unknown
    at : parameters of the model that is asked about
    initial_loss : nats, what a diverged run counts as
    """
    limits: list[tuple[float, float]] = []
    logits: dict[float, list[tuple[float, float]]] = {}
    for size, lr, loss, logit in curves:
        lr, loss, logit = (np.asarray(values, dtype=float) for values in (lr, loss, logit))
        known = np.isfinite(logit) & (logit > 0)
        for rate, value in zip(lr[known], logit[known], strict=True):
            logits.setdefault(float(rate), []).append((np.log(size), float(np.log(value))))
        first, order = onset(lr, loss, initial_loss=initial_loss), np.argsort(lr[known])
        if first is not None and known.sum() >= 2:
            limits.append((np.log(size), float(np.interp(np.log(first), np.log(lr[known][order]), np.log(logit[known][order])))))
    if len(limits) < 2:
        return OnsetForecast(at, None, None, len(limits), "fewer than two of the smaller sizes went unstable at a rate that was tried")
    limit = _line(limits, np.log(at))
    rates = np.array(sorted(rate for rate, points in logits.items() if len(points) >= 2))
    reached = np.array([_line(logits[rate], np.log(at)) for rate in rates])
    x = np.log(rates)
    above = np.flatnonzero(reached > limit)
    k = int(above[0]) if len(above) else len(x)
    if len(x) < 2 or (k == len(x) and reached[-1] <= reached[-2]):
        return OnsetForecast(at, None, float(np.exp(limit)), len(limits), "logits do not grow with the learning rate in these runs")
    k = min(max(k, 1), len(x) - 1)  # below the first rate and above the last: the nearest stretch, carried on
    slope = (reached[k] - reached[k - 1]) / (x[k] - x[k - 1])
    if slope <= 0:
        return OnsetForecast(at, None, float(np.exp(limit)), len(limits), "logits do not grow with the learning rate in these runs")
    return OnsetForecast(at, float(np.exp(x[k - 1] + (limit - reached[k - 1]) / slope)), float(np.exp(limit)), len(limits))


def _line(points: Sequence[tuple[float, float]], at: float) -> float:
    """The least-squares line through at least two points, evaluated."""
    x, y = np.array(points).T
    return float(np.polyfit(x - at, y, 1)[1])
