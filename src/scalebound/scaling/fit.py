"""``fit``: a table and a law become parameters at their global optimum, with intervals and plain words about what is not known."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

import scalebound
from scalebound.core.errors import UsageError
from scalebound.scaling.bootstrap import bootstrap as draw_parameters
from scalebound.scaling.fitted import (
    BootstrapRecord,
    DataRecord,
    DiagnosisRecord,
    Fit,
    InfluenceRecord,
    ObjectiveRecord,
    OptimumRecord,
    ProfileRecord,
    RefitRecord,
)
from scalebound.scaling.identifiability import neighbour_correlation, profiles
from scalebound.scaling.laws import get_law
from scalebound.scaling.laws.protocol import Bound, Law
from scalebound.scaling.objective import Objective
from scalebound.scaling.optimum import Optimum, find
from scalebound.scaling.rows import Rows, prepare, spans
from scalebound.scaling.sensitivity import influence, refits
from scalebound.scaling.table import Table, as_table
from scalebound.scaling.units import check_one_unit

LEAST_ALIKE = 0.3  # correlation of neighbouring residuals worth a word
RIVAL = 1.25  # other minima up to this multiple of the best objective are tried in every resample


def fit(
    table: Table | str | os.PathLike | Mapping[str, object],
    law: str | Law = "chinchilla",
    *,
    target: str | None = None,
    columns: str = "",
    where: str = "",
    objective: Objective | str | None = None,
    delta: float = 1e-3,
    bootstrap: int = 1000,
    group: str | None = None,
    weights: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    drop_bad: bool = False,
    fix: Mapping[str, float] | None = None,
    start: Mapping[str, float] | None = None,
    diagnose: bool = False,
    widen: bool = True,
) -> Fit:
    """Fit a scaling law to the global optimum of its objective.

    .. math:: \\hat\\theta = \\arg\\min_\\theta \\sum_i w_i\\, \\rho_\\delta(\\log y_i - \\log f(x_i; \\theta))

    Parameters
    ----------
    table : a path, a :class:`~scalebound.scaling.table.Table`, or a mapping of arrays
    law : a name (``scalebound.scaling.LAWS``), ``"power:flops"`` for a law of one chosen column, an expression, or a :class:`Law`
    target : the column to be explained; the law's own (``loss``) when not given
    columns, where : renaming and filtering, as on the command line
    objective : "huber", "squares", "absolute", an :class:`Objective`, or None for the law's own
    delta : > 0                  width of Huber's quadratic part
    bootstrap : >= 0             number of refits; 0 leaves intervals unknown
    group : column naming the run a row belongs to; whole runs are resampled
    weights : column of row weights, at least zero
    level : in (0, 1)            of all intervals
    fix : parameters that are given, not fitted, natural units
    start : values from which one more start is made, natural units; for own laws whose parameters are far from one
    diagnose : also profile every parameter, refit under other choices, and find the most influential rows
    widen : backtest the law on the same rows (smaller predict larger, three limits) and multiply the half-width of forecast intervals
        by what its truths needed, never below 1 and more the farther a forecast lies; ``widening`` and ``widening_reason`` say the factor
        and where it came from.
        Parameter intervals stay as they are. Tables too small for that are left alone, and the reason says so

    Returns
    -------
    Fit                          parameters, intervals, draws, the evidence of optimality, warnings; ``save`` writes it

    Raises
    ------
    InputError                   the table cannot be used; row and column are named
    UsageError                   no such law, an argument out of its range

    Notes
    -----
    Deterministic given ``seed``. A Chinchilla fit of 240 rows takes about 20 ms, 1,000 refits about 0.2 s, the backtest behind ``widen``
    about as much.

    Source
    ------
    Objective of Hoffmann et al. 2022, arXiv 2203.15556.

    Examples
    --------
    >>> n = np.geomspace(1e6, 1e9, 8)
    >>> found = fit({"params": n, "loss": 1.7 + 40 * n**-0.3}, "power", bootstrap=0)
    >>> {name: round(value, 4) for name, value in found.params.items()}
    {'c': 1.7, 'a': 40.0, 'b': 0.3}
    """
    check_level(level)
    if bootstrap < 0:
        raise UsageError(f"bootstrap is {bootstrap}", expected="a number of refits, at least 0")
    data = as_table(table, columns=columns, where=where)
    law = get_law(law, data.columns)
    how = objective_for(law, objective, delta)
    rows = prepare(data, law, target=target, group=group, weights=weights, drop_bad=drop_bad)
    found = fit_rows(
        rows, law, how, bootstrap=bootstrap, level=level, seed=seed, group=group, fix=fix, extra=_start(law, start), diagnose=diagnose
    )
    if rows.target == "loss" and target is None:
        check_one_unit(rows, law, how, law.predict(found.vector, rows.inputs), fix=fix)
    if not widen:
        return found
    from scalebound.scaling.backtest import widened_by_rows  # it fits, too

    return widened_by_rows(found, rows, law, how, fix=fix)


def _start(law: Law, start: Mapping[str, float] | None) -> np.ndarray | None:
    """Internal coordinates of a start; parameters not named are at the geometric middle of (0.02, 3)."""
    if not start:
        return None
    for name in start:
        if name not in law.names:
            raise UsageError(f"{law.name} has no parameter {name!r} to start from", expected=f"one of {', '.join(law.names)}")
    return law.internal(np.array([[start.get(name, 0.25) for name in law.names]]))


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UsageError(f"level is {level}", expected="a number strictly between 0 and 1")


def objective_for(law: Law, objective: Objective | str | None, delta: float) -> Objective:
    """The objective asked for, or the law's own."""
    if isinstance(objective, Objective):
        return objective
    kind = law.objective if objective is None else objective
    # squares are squares of the target itself, as everyone who prints a residual sum of squares means
    residual = "plain" if objective == "squares" else law.residual
    return Objective(kind, delta, residual)


def fit_rows(
    rows: Rows,
    law: Law,
    objective: Objective,
    *,
    bootstrap: int = 0,
    level: float = 0.95,
    seed: int = 0,
    group: str | None = None,
    fix: Mapping[str, float] | None = None,
    extra: np.ndarray | None = None,
    diagnose: bool = False,
) -> Fit:
    """:func:`fit` for rows already prepared."""
    bound = law.bind(rows.inputs)
    held = _held(law, fix)
    best = find(bound, rows.y, rows.weights, objective, extra=extra, held=held)
    frozen = np.array([k in held for k in range(len(law.parameters))])
    # a resample may fall into another basin, but not into one that is much worse than the best
    rivals = best.minima[1:3][best.minima_values[1:3] < RIVAL * best.minima_values[0]]
    draws, method = draw_parameters(
        bound, best.theta, rows.y, rows.weights, objective, count=bootstrap, seed=seed, groups=rows.groups, others=rivals, held=frozen
    )
    draws = draws[np.isfinite(draws).all(axis=1)]
    with np.errstate(over="ignore"):  # a refit may send a factor beyond floating point along with its exponent: it cannot be saved or drawn
        draws = draws[np.isfinite(law.natural(draws)).all(axis=1)]
    natural = law.natural(best.theta)
    fitted = bound.value(best.theta[None])[0]
    residuals = objective.residuals(rows.y, fitted)
    intervals = _intervals(law, law.natural(draws), level)
    n, p = len(rows), int((~frozen).sum())
    scale = float(np.sqrt(np.sum(residuals**2) / (n - p))) if n > p else None
    return Fit(
        law=law.name,
        inputs=tuple(law.inputs),
        target=rows.target,
        params=dict(zip(law.names, map(float, natural), strict=True)),
        intervals=intervals,
        level=level,
        internal=tuple(f"log {q.name}" if q.transform == "log" else q.name for q in law.parameters),
        covariance=_covariance(bound, best, rows, objective, draws),
        objective=ObjectiveRecord(
            kind=objective.kind, delta=objective.delta, residual=objective.residual, asymmetry=objective.asymmetry, value=best.value
        ),
        optimum=OptimumRecord(
            established=best.established,
            reason=best.reason,
            gradient_norm=best.gradient_norm,
            basins=best.basins,
            next_best=best.next_best,
            starts=best.starts,
            reached=best.reached,
            at_limit=best.at_limit,
        ),
        bootstrap=BootstrapRecord(method=method, count=len(draws), seed=seed, group=group),
        draws=tuple(tuple(map(float, draw)) for draw in law.natural(draws)),
        residuals=tuple(map(float, residuals)),
        scale=scale,
        data=DataRecord(
            source=rows.source,
            sha256=rows.sha256,
            columns=rows.columns,
            where=rows.where,
            n=n,
            groups=None if rows.groups is None else len(np.unique(rows.groups)),
            ranges=spans(rows.inputs),
            target_range=(float(rows.y.min()), float(rows.y.max())),
        ),
        warnings=tuple(_warnings(law, best, law.natural(draws), intervals, rows, method, bootstrap, residuals, p)),
        notes=rows.notes,
        fixed=tuple(fix or ()),
        diagnosis=_diagnose(law, bound, best, rows, objective, intervals, residuals, level, frozen) if diagnose else None,
        version=scalebound.__version__,
    )


def _held(law: Law, fix: Mapping[str, float] | None) -> dict[int, float]:
    """Positions and internal values of the parameters that are given."""
    out = {}
    for name, value in (fix or {}).items():
        if name not in law.names:
            raise UsageError(f"{law.name} has no parameter {name!r} to fix", expected=f"one of {', '.join(law.names)}")
        parameter = law.parameters[law.names.index(name)]
        if not parameter.low <= value <= parameter.high:
            raise UsageError(f"{name} is fixed at {value}", expected=f"a number from {parameter.low:g} to {parameter.high:g}")
        out[law.names.index(name)] = float(parameter.internal(value))
    if len(out) == len(law.parameters):
        raise UsageError("every parameter is fixed", expected="at least one to be fitted")
    return out


def _diagnose(
    law: Law,
    bound: Bound,
    best: Optimum,
    rows: Rows,
    objective: Objective,
    intervals: dict[str, tuple[float, float] | None],
    residuals: np.ndarray,
    level: float,
    frozen: np.ndarray,
) -> DiagnosisRecord:
    seen = profiles(bound, best.theta, rows.y, rows.weights, objective, level=level, held=frozen, others=best.minima[1:4])
    return DiagnosisRecord(
        profiles=tuple(
            ProfileRecord(
                name=one.name,
                low=one.low,
                high=one.high,
                flat_low=one.flat_low,
                flat_high=one.flat_high,
                words=one.words,
                values=tuple(map(float, one.values)),
                objective=tuple(map(float, one.objective)),
            )
            for one in seen
        ),
        # other choices are about the whole law: with parameters given from outside they would not be comparable
        refits=()
        if frozen.any()
        else tuple(
            RefitRecord(choice=one.choice, n=one.n, params=one.params, moved=one.moved)
            for one in refits(rows, law, objective, intervals, residuals)
        ),
        influence=tuple(
            InfluenceRecord(row=one.row, shift=one.shift, parameter=one.parameter)
            for one in influence(rows, law, objective, best.theta, held=frozen)
        ),
    )


def _intervals(law: Law, draws: np.ndarray, level: float) -> dict[str, tuple[float, float] | None]:
    if len(draws) < 20:
        return dict.fromkeys(law.names)
    tails = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(tails[0, k]), float(tails[1, k])) for k, name in enumerate(law.names)}


def _covariance(bound: Bound, best: Optimum, rows: Rows, objective: Objective, draws: np.ndarray) -> tuple[tuple[float, ...], ...] | None:
    """Of the draws; None when there are too few."""
    if len(draws) < 20:
        return None
    matrix = np.cov(draws.T).reshape(draws.shape[1], draws.shape[1])
    return tuple(tuple(map(float, row)) for row in matrix) if np.isfinite(matrix).all() else None


def _warnings(
    law: Law,
    best: Optimum,
    draws: np.ndarray,
    intervals: dict[str, tuple[float, float] | None],
    rows: Rows,
    method: str,
    asked: int,
    residuals: np.ndarray,
    p: int,
) -> list[str]:
    out = []
    n = len(rows)
    if not best.established:
        out.append(f"the global optimum is not established: {best.reason}")
    for name in best.at_limit:
        out.append(
            f"{name} ended at its limit {law.natural(best.theta)[law.names.index(name)]:.4g}: "
            "the data want it beyond, or do not need this term"
        )
    if n == p:
        out.append(f"{n} rows for {p} parameters: the curve passes through the points, and neither noise nor intervals can be known")
    elif n < 2 * p:
        out.append(f"only {n - p} more rows than parameters: intervals rest on little")
    if method == "none" and asked and n > p:
        out.append("no interval could be computed")
    for parameter in law.parameters:
        interval = intervals[parameter.name]
        if interval is None:
            continue
        low, high = interval
        position = law.names.index(parameter.name)
        at_edge = np.mean((draws[:, position] <= parameter.low * (1 + 1e-6) + 1e-12) | (draws[:, position] >= parameter.high * (1 - 1e-6)))
        if parameter.transform == "log" and low > 0 and high / low > 1e3:
            out.append(f"{parameter.name} is known only to {np.log10(high / low):.1f} decades (it moves together with its exponent)")
        elif at_edge > 0.05:
            out.append(f"{parameter.name} is at its limit in {at_edge:.0%} of the refits: the data do not bound it on that side")
    size = np.abs(residuals - np.median(residuals))
    spread = 1.4826 * float(np.median(size))
    if spread > 0 and n >= 10:
        far = np.flatnonzero(size > 8 * spread)
        if len(far):
            listed = ", ".join(str(int(rows.numbers[k])) for k in far[np.argsort(-size[far])][:5])
            out.append(f"{len(far)} rows lie more than 8 spreads from the curve (source rows {listed}{', ...' if len(far) > 5 else ''})")
    if method in ("rows", "groups"):
        alike = neighbour_correlation(rows.inputs, residuals, rows.groups if method == "groups" else None)
        if alike is not None and alike > max(LEAST_ALIKE, 3 / np.sqrt(n)):
            out.append(
                f"neighbouring rows err alike (correlation {alike:.2f}), as if there were fewer of them: intervals of parameters are too narrow, "
                f"{_narrow(alike)}; a backtest sees this, resampling {method} does not"
            )
    return out


def _narrow(alike: float) -> str:
    """By how much intervals are too narrow when residuals fade like a random walk."""
    factor = np.sqrt((1 + alike) / max(1 - alike, 1e-6))
    return f"perhaps by a factor of {factor:.1f}" if factor < 5 else "perhaps many times: the law may not describe these rows"
