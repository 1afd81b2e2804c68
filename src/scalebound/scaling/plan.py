"""``plan``: from a fitted law of parameters and tokens to the runs worth training.

* :func:`plan`: the compute-optimal (N, D) at a budget, or the best N when the unique data are limited and may be repeated.
* :func:`overtraining_cost`: what it costs to train a smaller model longer.
* :func:`cheapest_for_loss`: the (N, D) of least total compute that reaches a loss and then serves a number of tokens.

The optimum is found on a grid of log N for the curve and every bootstrap draw at once, then refined by a parabola through the three best
points: every law with columns ``params`` and ``tokens`` is served by the same code.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.scaling.fitted import Fit, load_fit
from scalebound.scaling.forecast import forecast_inputs, law_of
from scalebound.scaling.laws.protocol import Law

GRID = 241
TRAIN_FLOPS = 6.0  # per parameter and token: forward and backward
SERVE_FLOPS = 2.0  # per parameter and token: forward


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; the ends are None when the fit has no draws."""

    value: float
    low: float | None = None
    high: float | None = None

    def record(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Plan:
    """A training run: sizes, loss, and what was assumed.

    Intervals of sizes are the spread of the optimum over the refits; that of the loss is the forecast for the run of these sizes.
    """

    flops: float
    params: Estimate
    tokens: Estimate
    loss: Estimate | None  # None: an isoFLOP law says where the optimum is, not how high
    epochs: float | None
    level: float
    decades_beyond: float
    warnings: tuple[str, ...] = ()


Curve = Callable[[np.ndarray, np.ndarray], np.ndarray]  # draws (B, p), log N (points,) -> objective (B, points)


def _draws(fit: Fit) -> np.ndarray:
    """(1 + draws, p): the fitted parameters first."""
    return np.concatenate([fit.vector[None], fit.draw_matrix()]) if len(fit.draws) >= 20 else fit.vector[None]


def _require_sizes(fit: Fit) -> Law:
    law = law_of(fit)
    if not {"params", "tokens"} <= set(law.inputs):
        raise UsageError(
            f"a plan needs a law of params and tokens; {fit.law} reads {', '.join(fit.inputs)}",
            expected="a fit of chinchilla, overtraining, kaplan or repetition",
        )
    return law


def _summary(values: np.ndarray, level: float) -> Estimate:
    """First entry the value, the others its draws."""
    if len(values) < 2:
        return Estimate(float(values[0]))
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(values[0]), float(min(low, values[0])), float(max(high, values[0])))


def minimise_over_size(
    objective: Curve, draws: np.ndarray, low: float, high: float, *, points: int = GRID
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least point of a curve over log N for every draw: (B,) log N, (B,) value, (B,) whether it lies at an end of the range."""
    x = np.linspace(low, high, points)
    values = objective(draws, x)
    best = np.argmin(np.where(np.isfinite(values), values, np.inf), axis=1)
    inner = np.clip(best, 1, points - 2)
    rows = np.arange(len(draws))
    edge = (best == 0) | (best == points - 1)
    left, middle, right = values[rows, inner - 1], values[rows, inner], values[rows, inner + 1]
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite where a size cannot reach the loss
        bend = left - 2 * middle + right
        shift = np.where(bend > 0, 0.5 * (left - right) / bend, 0.0)
        shift = np.where(edge, best - inner, np.clip(shift, -1, 1))
        lowest = np.where(edge, values[rows, best], middle - 0.25 * (left - right) * shift)
    return x[inner] + shift * (x[1] - x[0]), lowest, edge


def plan(
    fit: Fit | str | os.PathLike,
    *,
    flops: float,
    unique_tokens: float | None = None,
    tokens_per_param: float | None = None,
    level: float | None = None,
) -> Plan:
    """The best model and data size for a training budget, with intervals.

    .. math:: \\min_N L(N, C/(6N))

    For ``chinchilla`` this is :math:`N^* = G(C/6)^{\\beta/(\\alpha+\\beta)}`. An ``isoflop`` fit is its own answer, without a loss.

    Parameters
    ----------
    flops : > 0                     C, at 6 per parameter and token
    unique_tokens : U               data that exist; needs a ``repetition`` fit, which then trades size against epochs
    tokens_per_param : M            hold D/N at M instead of optimising (over-trained runs)

    Raises
    ------
    UsageError                      the law does not read params and tokens; a budget that is not positive

    Examples
    --------
    >>> from scalebound.scaling.fit import fit as fit_law
    >>> N, D = np.tile(np.geomspace(1e7, 1e9, 5), 4), np.repeat(np.geomspace(1e9, 3e10, 4), 5)
    >>> found = fit_law({"params": N, "tokens": D, "loss": 1.8 + 480 / N**0.35 + 2100 / D**0.37}, "chinchilla", bootstrap=0)
    >>> f"{plan(found, flops=1e21).params.value:.3g}"
    '2.94e+09'
    """
    fit = fit if isinstance(fit, Fit) else load_fit(fit)
    level = fit.level if level is None else level
    if fit.law == "isoflop":
        return _from_isoflop(fit, flops, unique_tokens, tokens_per_param, level)
    law = _require_sizes(fit)
    _positive("flops", flops)
    draws = _draws(fit)
    extra = _extra_inputs(law, unique_tokens)
    if tokens_per_param is not None:
        _positive("tokens_per_param", tokens_per_param)
        size = math.log(flops / (TRAIN_FLOPS * tokens_per_param)) / 2
        log_n, edge = np.full(len(draws), size), np.zeros(len(draws), dtype=bool)
        loss = _loss_curve(law, extra, lambda x: math.log(flops / TRAIN_FLOPS) - x)(draws, log_n[:1])[:, 0]
    else:
        span = math.log(flops / TRAIN_FLOPS)
        curve = _loss_curve(law, extra, lambda x: math.log(flops / TRAIN_FLOPS) - x)
        # D/N from 1e-3 to 1e6 covers every run anyone has made
        log_n, loss, edge = minimise_over_size(curve, draws, (span - math.log(1e6)) / 2, (span - math.log(1e-3)) / 2)
    tokens = flops / TRAIN_FLOPS / np.exp(log_n)
    beyond = _beyond(fit, float(np.exp(log_n[0])), float(tokens[0]))
    warnings = _warn(beyond, edge)
    # the loss of the run one would train, with its noise and what a backtest asked for: what `forecast` says at the same point
    chosen = {"params": np.exp(log_n[:1]), "tokens": tokens[:1]}
    for name, limit in extra.items():
        chosen[name] = np.minimum(limit, chosen["tokens"])
    ahead = forecast_inputs(fit, law, chosen, level=level)
    return Plan(
        flops=flops,
        params=_summary(np.exp(log_n), level),
        tokens=_summary(tokens, level),
        loss=Estimate(float(loss[0]))
        if ahead.low is None or ahead.high is None
        else Estimate(float(loss[0]), float(ahead.low[0]), float(ahead.high[0])),
        epochs=None if unique_tokens is None else float(tokens[0] / unique_tokens),
        level=level,
        decades_beyond=beyond,
        warnings=warnings,
    )


def _from_isoflop(fit: Fit, flops: float, unique_tokens: float | None, tokens_per_param: float | None, level: float) -> Plan:
    """The optimum that an isoFLOP analysis found, and the tokens the rest of the budget buys."""
    from scalebound.scaling.rows import decades_beyond

    _positive("flops", flops)
    if unique_tokens is not None or tokens_per_param is not None:
        raise UsageError("an isoflop fit knows the compute-optimal size only", expected="a fit of chinchilla, overtraining or repetition")
    size = law_of(fit).predict(_draws(fit), {"flops": np.array([flops])})[:, 0]
    beyond = float(decades_beyond({"flops": np.array([flops])}, fit.data.ranges)[0])
    return Plan(
        flops=flops,
        params=_summary(size, level),
        tokens=_summary(flops / TRAIN_FLOPS / size, level),
        loss=None,
        epochs=None,
        level=level,
        decades_beyond=beyond,
        warnings=_warn(beyond, np.zeros(1, dtype=bool)),
    )


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name} is {value}", expected="a positive number")


def _extra_inputs(law: Law, unique_tokens: float | None) -> dict[str, float]:
    if "unique_tokens" in law.inputs:
        if unique_tokens is None:
            return {"unique_tokens": math.inf}
        _positive("unique_tokens", unique_tokens)
        return {"unique_tokens": unique_tokens}
    if unique_tokens is not None:
        raise UsageError(
            f"{law.name} does not know repeated data", expected="a fit of the law repetition", hint="scalebound fit TABLE --law repetition"
        )
    return {}


def _loss_curve(law: Law, extra: dict[str, float], log_tokens: Callable[[np.ndarray], np.ndarray]) -> Curve:
    def curve(draws: np.ndarray, log_n: np.ndarray) -> np.ndarray:
        log_d = log_tokens(log_n)
        inputs = {"params": np.exp(log_n), "tokens": np.exp(log_d)}
        for name, limit in extra.items():
            inputs[name] = np.minimum(limit, inputs["tokens"])
        return law.predict(draws, inputs)

    return curve


def _beyond(fit: Fit, params: float, tokens: float) -> float:
    from scalebound.scaling.rows import decades_beyond

    return float(decades_beyond({"params": np.array([params]), "tokens": np.array([tokens])}, fit.data.ranges)[0])


def _warn(beyond: float, edge: np.ndarray) -> tuple[str, ...]:
    out = []
    if beyond > 1.5:
        out.append(f"the plan lies {beyond:.1f} decades beyond the fitted runs; its interval rests on the law being right")
    if edge[0]:
        out.append("the best size lies at the end of the range searched: the law has no inner optimum at this budget")
    elif edge.mean() > 0.02:
        out.append(f"{edge.mean():.0%} of the refits have no inner optimum: the data hardly determine the trade-off")
    return tuple(out)


@dataclass(frozen=True)
class OvertrainingCost:
    """Training at ``factor`` times the optimal tokens per parameter, same budget; and the budget that makes up for it."""

    factor: float
    params: float
    tokens: float
    loss: Estimate
    extra_loss: Estimate
    extra_compute: Estimate  # factor on the budget at which this ratio reaches the optimal loss


def overtraining_cost(fit: Fit | str | os.PathLike, *, flops: float, factor: float, level: float | None = None) -> OvertrainingCost:
    """Loss given up by a model trained on ``factor`` times more tokens per parameter than is compute-optimal.

    ``extra_compute`` is the multiple of the budget with which the over-trained shape reaches the loss of the optimal one.
    """
    fit = fit if isinstance(fit, Fit) else load_fit(fit)
    level = fit.level if level is None else level
    law = _require_sizes(fit)
    _positive("factor", factor)
    best = plan(fit, flops=flops, level=level)
    draws = _draws(fit)
    extra = _extra_inputs(law, None)
    log_n = math.log(best.params.value) - 0.5 * math.log(factor)
    span = math.log(flops / TRAIN_FLOPS)
    curve = _loss_curve(law, extra, lambda x: span - x)
    loss = curve(draws, np.array([log_n]))[:, 0]
    optimal = curve(draws, np.array([math.log(best.params.value)]))[:, 0]
    # more compute at the same ratio: N and D both grow by sqrt of the multiple
    multiple = np.linspace(0.0, math.log(1e4), 400)
    along = {"params": np.exp(log_n + multiple / 2), "tokens": np.exp(span - log_n + multiple / 2)}
    for name, limit in extra.items():
        along[name] = np.minimum(limit, along["tokens"])
    values = law.predict(draws, along)
    reached = np.array([_cross(multiple, row, level_) for row, level_ in zip(values, optimal, strict=True)])
    return OvertrainingCost(
        factor,
        math.exp(log_n),
        math.exp(span - log_n),
        _summary(loss, level),
        _summary(loss - optimal, level),
        _summary(np.exp(reached), level),
    )


def _cross(x: np.ndarray, values: np.ndarray, level: float) -> float:
    """Where falling values first reach the level; the end of the range when they do not."""
    below = np.flatnonzero(values <= level)
    if not len(below):
        return math.inf
    k = int(below[0])
    if k == 0:
        return float(x[0])
    share = (values[k - 1] - level) / max(values[k - 1] - values[k], 1e-300)
    return float(x[k - 1] + share * (x[k] - x[k - 1]))


@dataclass(frozen=True)
class Serving:
    """The cheapest model for a loss, its training and its inference."""

    params: Estimate
    tokens: Estimate
    train_flops: Estimate
    total_flops: Estimate


def cheapest_for_loss(fit: Fit | str | os.PathLike, *, loss: float, inference_tokens: float = 0.0, level: float | None = None) -> Serving:
    """Least ``6 N D + 2 N T`` over the (N, D) whose loss is ``loss``, T tokens being served afterwards.

    For every N on a grid, D is found by bisection (the law falls in D); the cheapest is refined by a parabola.

    Raises
    ------
    InputError          the loss is below what the law reaches at any size

    Source
    ------
    Sardana et al. 2023, arXiv 2401.00448.
    """
    fit = fit if isinstance(fit, Fit) else load_fit(fit)
    level = fit.level if level is None else level
    law = _require_sizes(fit)
    _positive("loss", loss)
    if inference_tokens < 0:
        raise UsageError(f"inference_tokens is {inference_tokens}", expected="at least 0")
    extra = _extra_inputs(law, None)

    def tokens_needed(draws: np.ndarray, log_n: np.ndarray) -> np.ndarray:
        low, high = np.full((len(draws), len(log_n)), math.log(1e3)), np.full((len(draws), len(log_n)), math.log(1e20))
        for _ in range(50):
            middle = 0.5 * (low + high)
            value = np.stack([_at(law, draws[k], log_n, middle[k], extra) for k in range(len(draws))])
            low, high = np.where(value > loss, middle, low), np.where(value > loss, high, middle)
        return np.where(high >= math.log(1e20) - 1e-6, np.inf, high)

    def cost(draws: np.ndarray, log_n: np.ndarray) -> np.ndarray:
        log_d = tokens_needed(draws, log_n)
        with np.errstate(over="ignore"):
            return np.log(TRAIN_FLOPS * np.exp(log_d) + SERVE_FLOPS * inference_tokens) + log_n

    draws = _draws(fit)[:201]
    log_n, log_cost, _edge = minimise_over_size(cost, draws, math.log(1e5), math.log(1e15))
    if not np.isfinite(log_cost[0]):
        raise InputError(
            f"no size reaches a loss of {loss:g} under this law", where=fit.data.source, expected="a loss above the irreducible part"
        )
    good = np.isfinite(log_cost)
    total = np.exp(log_cost[good])
    size = np.exp(log_n[good])
    tokens = (total / size - SERVE_FLOPS * inference_tokens) / TRAIN_FLOPS
    return Serving(_summary(size, level), _summary(tokens, level), _summary(TRAIN_FLOPS * size * tokens, level), _summary(total, level))


def _at(law: Law, draw: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, extra: dict[str, float]) -> np.ndarray:
    inputs = {"params": np.exp(log_n), "tokens": np.exp(log_d)}
    for name, limit in extra.items():
        inputs[name] = np.minimum(limit, inputs["tokens"])
    return law.predict(draw, inputs)
