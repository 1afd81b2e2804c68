"""``backtest``: would this law have predicted your own larger runs? Trained below a limit, scored above it, rolling.

Runs are ordered by size. For each limit the law is fitted to the rows at or below it and predicts all rows above: value, interval,
truth. What comes out is the relative error of extrapolation and the share of truths inside the stated intervals. When intervals
cover too little, :func:`widening` says by which factor they must grow.

Source
------
Widening: split conformal prediction on residuals scaled by the interval's own half-width (Lei et al. 2018, JASA 113; Papadopoulos
et al. 2008). Rows of one limit share a fit and rows of several limits share truths, so the factor is a practical correction and no
theorem of exact coverage.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.scaling.fit import check_level, fit_rows, objective_for
from scalebound.scaling.fitted import Fit
from scalebound.scaling.forecast import forecast_inputs
from scalebound.scaling.laws import get_law
from scalebound.scaling.laws.protocol import Law
from scalebound.scaling.objective import Objective
from scalebound.scaling.rows import Rows, decades_past, prepare, sizes
from scalebound.scaling.table import Table, as_table

WIDEN_FOLDS, WIDEN_DRAWS = 3, 200  # enough for a factor to two digits, and half as dear as the fit itself
LEAST_SCORED = 10
LEAST_DRAWS = 20
LEAST_OF_A_LIMIT = 5
CURVES = "curve left out"


@dataclass(frozen=True)
class Backtest:
    """One entry per (limit, row above it), in the order of limits and then of rows."""

    law: str
    target: str
    order: str  # what runs were ordered by
    limits: tuple[float, ...]
    trained: tuple[int, ...]  # rows behind each limit
    level: float
    row: np.ndarray  # number in the source
    size: np.ndarray  # of the row, in the quantity it was ordered by
    limit: np.ndarray  # the largest size the fit saw
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    truth: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """|value - truth| / truth."""
        return np.abs(self.value - self.truth) / np.abs(self.truth)

    @property
    def mean_abs_relative_error(self) -> float:
        return float(np.mean(self.errors))

    @property
    def coverage(self) -> float | None:
        """Share of truths inside the interval; None when no interval was known."""
        known = np.isfinite(self.low)
        return float(np.mean((self.low <= self.truth) & (self.truth <= self.high), where=known)) if known.any() else None

    def records(self) -> list[dict]:
        """One dictionary per entry: value, low, high, truth, size, limit, row."""

        def number(x: float) -> float | None:
            return float(x) if math.isfinite(x) else None

        names = ("value", "low", "high", "truth", "size", "limit")
        return [{**{name: number(getattr(self, name)[k]) for name in names}, "row": int(self.row[k])} for k in range(len(self.row))]


def choose_limits(size: np.ndarray, rows: Rows, law: Law, folds: int, limit: float | None, least: int | None = None) -> list[float]:
    """Sizes up to which the law is fitted: the given one, or ``folds`` of them between 40% and 90% of the runs, ``least`` rows or more."""
    ordered = np.sort(size)
    if limit is not None:
        if not (size <= limit).any() or not (size > limit).any():
            raise UsageError(
                f"the limit {limit:g} leaves no row on one side", expected=f"a number between {ordered[0]:g} and {ordered[-1]:g}"
            )
        return [limit]
    least = len(law.parameters) + 1 if least is None else least
    out = []
    for share in np.linspace(0.4, 0.9, folds):
        cut = float(ordered[min(max(int(share * len(ordered)), least) - 1, len(ordered) - 1)])
        below = size <= cut
        kept = {name: values[below] for name, values in rows.inputs.items()}
        distinct = np.unique(np.stack(list(kept.values())), axis=1).shape[1]
        varying = all(len(np.unique(kept[name])) > 1 for name in (law.inputs if law.varying is None else law.varying))
        if below.sum() < len(size) and distinct >= least and varying and cut not in out:
            out.append(cut)
    if not out:
        raise InputError(
            f"{len(rows)} rows are too few to fit {law.name} below a limit and score above it",
            where=rows.source,
            expected=f"at least {least + 1} different rows",
        )
    return out


def backtest(
    table: Table | str | os.PathLike | Mapping[str, object],
    law: str | Law = "chinchilla",
    *,
    target: str | None = None,
    columns: str = "",
    where: str = "",
    objective: Objective | str | None = None,
    delta: float = 1e-3,
    limit: float | None = None,
    folds: int = 4,
    bootstrap: int = 300,
    group: str | None = None,
    weights: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    drop_bad: bool = False,
    fix: Mapping[str, float] | None = None,
) -> Backtest:
    """Fit below a size, predict above it, for several sizes.

    Parameters
    ----------
    limit : the size (FLOPs where params and tokens are known, else the law's input); ``folds`` rolling limits when not given
    bootstrap : refits behind each interval
    Others as in :func:`~scalebound.scaling.fit.fit`.

    Raises
    ------
    InputError      too few rows for any limit
    UsageError      the limit leaves nothing on one side

    Examples
    --------
    >>> n = np.geomspace(1e6, 1e9, 16)
    >>> seen = backtest({"params": n, "loss": 1.7 + 40 * n**-0.3}, "power", bootstrap=50)
    >>> seen.mean_abs_relative_error < 1e-6
    True
    """
    check_level(level)
    if folds < 1:
        raise UsageError(f"folds is {folds}", expected="at least 1")
    data = as_table(table, columns=columns, where=where)
    law = get_law(law, data.columns)
    how = objective_for(law, objective, delta)
    rows = prepare(data, law, target=target, group=group, weights=weights, drop_bad=drop_bad)
    return backtest_rows(rows, law, how, limit=limit, folds=folds, bootstrap=bootstrap, level=level, seed=seed, fix=fix)


def backtest_rows(
    rows: Rows,
    law: Law,
    objective: Objective,
    *,
    limit: float | None = None,
    folds: int = 4,
    bootstrap: int = 300,
    level: float = 0.95,
    seed: int = 0,
    fix: Mapping[str, float] | None = None,
) -> Backtest:
    """:func:`backtest` for rows already prepared."""
    if "curve" in rows.inputs:
        return _curve_by_curve(rows, law, objective, bootstrap=bootstrap, level=level, seed=seed, fix=fix)
    size, order = sizes(rows.inputs)
    limits = choose_limits(size, rows, law, folds, limit)
    splits = [(cut, size <= cut) for cut in limits]
    return _score(rows, law, objective, splits, size, order, bootstrap=bootstrap, level=level, seed=seed, fix=fix)


def _curve_by_curve(
    rows: Rows, law: Law, objective: Objective, *, bootstrap: int, level: float, seed: int, fix: Mapping[str, float] | None
) -> Backtest:
    """For laws of whole curves: every curve predicted from all the others. ``limit`` is then the number of the curve left out."""
    curve = rows.inputs["curve"]
    names = np.unique(curve)
    if len(names) < 2:
        raise InputError("only one curve", where=rows.source, expected="at least two schedules, named by --group")
    splits = [(float(name), curve != name) for name in names]
    return _score(rows, law, objective, splits, curve, CURVES, bootstrap=bootstrap, level=level, seed=seed, fix=fix)


def _score(
    rows: Rows,
    law: Law,
    objective: Objective,
    splits: list[tuple[float, np.ndarray]],
    size: np.ndarray,
    order: str,
    *,
    bootstrap: int,
    level: float,
    seed: int,
    fix: Mapping[str, float] | None,
) -> Backtest:
    """Fit to the rows of each split's mask, predict the others."""
    parts: list[tuple[np.ndarray, ...]] = []
    trained = []
    for cut, below in splits:
        trained.append(int(below.sum()))
        fitted = fit_rows(rows.take(below), law, objective, bootstrap=bootstrap, level=level, seed=seed, fix=fix)
        above = rows.take(~below)
        seen = forecast_inputs(fitted, law, above.inputs, seed=seed)
        unknown = np.full(len(above), np.nan)
        parts.append(
            (
                above.numbers,
                size[~below],
                np.full(len(above), cut),
                seen.value,
                unknown if seen.low is None else seen.low,
                unknown if seen.high is None else seen.high,
                above.y,
            )
        )
    row, sized, cuts, value, low, high, truth = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Backtest(
        law=law.name,
        target=rows.target,
        order=order,
        limits=tuple(cut for cut, _ in splits),
        trained=tuple(trained),
        level=level,
        row=row,
        size=sized,
        limit=cuts,
        value=value,
        low=low,
        high=high,
        truth=truth,
    )


def widening(seen: Backtest) -> float:
    """Factor for the half-widths of intervals that the backtest asks for, at the distance it looked; at least 1.

    Per limit the conformal quantile, at ``level (1 + 1/m)``, of ``1 + max(low - truth, truth - high) / half-width`` over its m predictions,
    at least 1; of these the root mean square. Predictions of one limit share the error of one fit, so that pooling them would hide the
    limit at which the law failed; taking the worst limit alone makes intervals a sixth wider without covering more (benchmarks/LOG.md).
    Limits with fewer than ``LEAST_OF_A_LIMIT`` predictions are pooled.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        score = 1.0 + np.maximum(seen.low - seen.truth, seen.truth - seen.high) / (0.5 * (seen.high - seen.low))
    known = np.isfinite(score)  # an unknown or endless interval says nothing of how wide a finite one must be
    parts = [known & (seen.limit == limit) for limit in seen.limits]
    few = [part for part in parts if 0 < part.sum() < LEAST_OF_A_LIMIT]
    parts = [part for part in parts if part.sum() >= LEAST_OF_A_LIMIT] + ([np.any(few, axis=0)] if few else [])
    asked = []
    for part in parts:
        m = int(part.sum())
        asked.append(max(1.0, float(np.sort(score[part])[min(math.ceil(seen.level * (m + 1)), m) - 1])))
    return math.sqrt(float(np.mean(np.square(asked)))) if asked else 1.0


def widened(fit: Fit, seen: Backtest) -> Fit:
    """The fit with its intervals widened by what the backtest shows, and the reason recorded.

    The factor holds at the backtest's own mean distance beyond the fitted sizes; :func:`~scalebound.scaling.forecast.widening_at` scales
    what exceeds one with the distance of the forecast. Curves left out have no distance.
    """
    import msgspec

    factor = widening(seen)
    by_size = seen.order != CURVES
    reach = float(np.mean(decades_past(seen.size, seen.limit))) if by_size else 0.0
    coverage = seen.coverage
    share = "an unknown share" if coverage is None else f"{coverage:.0%}"
    far = f" at {reach:.2g} decades beyond the largest run" if reach else ""
    action = f"half-widths times {factor:.3g}{far}" if factor > 1 else "no widening needed"
    reason = (
        f"backtest: {len(seen.row)} predictions of {len(np.unique(seen.row))} rows from {len(seen.limits)} limits, "
        f"{share} inside {seen.level:.0%} intervals; {action}"
    )
    largest = float(np.max(seen.size)) if by_size else 0.0
    return msgspec.structs.replace(fit, widening=factor, widening_reason=reason, widening_reach=reach, widening_size=largest)


def widened_by_rows(fit: Fit, rows: Rows, law: Law, objective: Objective, *, fix: Mapping[str, float] | None = None) -> Fit:
    """What ``fit(widen=True)`` does: backtest the rows of the fit, and widen; unchanged, with the reason in words, where that cannot be.

    Limits leave at least two rows per parameter to fit, and ten different rows must be scored: fewer decide nothing about a tail of
    5%. Costs ``WIDEN_FOLDS`` fits of ``WIDEN_DRAWS`` refits.
    """
    import msgspec

    def unchanged(why: str) -> Fit:
        return msgspec.structs.replace(fit, widening_reason=f"not widened by a backtest: {why}")

    if fit.bootstrap.count < LEAST_DRAWS:
        return unchanged("there are no bootstrap draws, hence no intervals")
    if "curve" in rows.inputs:
        if len(np.unique(rows.inputs["curve"])) < 3:
            return unchanged("predicting whole curves from the others needs three of them")
        if not law.cheap_refits:
            return unchanged(f"a fit of {law.name} for every curve left out takes long; `widened(fit, backtest(...))` does it")
        draws = min(WIDEN_DRAWS, max(law.most_refits // 4, LEAST_DRAWS))
        return widened(fit, backtest_rows(rows, law, objective, bootstrap=draws, level=fit.level, seed=fit.bootstrap.seed, fix=fix))
    size, order = sizes(rows.inputs)
    try:
        limits = choose_limits(size, rows, law, WIDEN_FOLDS, None, least=2 * len(law.parameters))
    except InputError:
        limits = []
    scored = int(np.sum(size > limits[0])) if limits else 0
    if scored < LEAST_SCORED:
        return unchanged(f"of {len(rows)} rows {scored} could be predicted from smaller ones, and {LEAST_SCORED} are needed")
    splits = [(cut, size <= cut) for cut in limits]
    seen = _score(rows, law, objective, splits, size, order, bootstrap=WIDEN_DRAWS, level=fit.level, seed=fit.bootstrap.seed, fix=fix)
    return widened(fit, seen)
