"""``scalebound fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from scalebound.cli.fitting import Fitting, given
from scalebound.cli.output import Result, table


def fit(
    data: Annotated[Path, Parameter(name="TABLE")],
    /,
    *,
    law: str = "chinchilla",
    rows: Fitting | None = None,
    bootstrap: int = 1000,
    start: str = "",
    diagnose: bool = False,
    widen: bool = True,
    budgets: str = "",
    out: Path | None = None,
) -> Result:
    """Fit a scaling law to a table of runs (CSV, JSONL or Parquet), to the global optimum of its objective.

    The objective is the sum over rows of Huber's penalty of log residuals, delta 1e-3, unless the law or a flag says otherwise.

    Parameters
    ----------
    data
        Table with columns params, tokens, loss, ... (usual other names are recognised and shown).
    law
        power, power:flops, chinchilla, overtraining, kaplan, repetition, exponential-error, sigmoid:COLUMN, annealing,
        annealing-sized, multipower, cooldown, critical-batch, passuntil, filtering, isoflop;
        "auto" compares the laws that suit the columns by backtest;
        or an expression of columns and parameters, "E + A/params**a + B/tokens**b".
    bootstrap
        Number of refits behind the intervals.
    start
        Values to start from, for an own law whose parameters are far from one: Nc=1e13.
    diagnose
        Profile every parameter, refit under other choices, find the rows that decide.
    widen
        Backtest the law on the same runs and widen forecast intervals by what that shows; --no-widen leaves them as the bootstrap has them.
    budgets
        With --law isoflop on the logs of whole runs (--group): FLOPs at which the runs are compared, 1e17,3e17,1e18, or how many.
    out
        Save the fit here, with its bootstrap draws.

    Examples
    --------
    scalebound fit points.csv --law chinchilla --bootstrap 1000 --out law.json
    scalebound fit runs.csv --law power --columns params=N,loss=c4_val --where dataset=C4

    next: scalebound forecast law.json --at params=1e9,tokens=2e10
    """
    from scalebound import scaling
    from scalebound.core.errors import UsageError

    rows = rows or Fitting()
    if budgets and law != "isoflop":
        raise UsageError(f"--budgets has no meaning for the law {law}", expected="--law isoflop")
    table_ = rows.table(data, law)
    if law == "isoflop":
        return _isoflop(table_, rows, budgets, out)
    choice = None
    if law == "auto":
        choice = scaling.choose(table_, **rows.rows(), **rows.penalty())
        law = choice.law
    found = scaling.fit(
        table_,
        law,
        **rows.rows(),
        **rows.penalty(),
        bootstrap=bootstrap,
        fix=given(rows.fix),
        start=given(start, "--start"),
        diagnose=diagnose,
        widen=widen,
    )
    if out is not None:
        found.save(out)
    shown = view(found, out)
    full = record(found)
    if choice is not None:
        body = [
            [one.law, one.parameters, f"{one.error:.2%}", f"{one.worst:.2%}", "unknown" if one.coverage is None else f"{one.coverage:.0%}"]
            for one in choice.candidates
        ]
        shown.insert(
            0,
            table(
                ["law", "parameters", "mean error", "worst", f"inside {rows.level:.0%}"],
                body,
                title=f"small predicts large: {choice.predictions} predictions of larger runs, from the larger half of four limits",
            ),
        )
        shown.insert(1, choice.reason)
        full["candidates"] = [
            {"law": one.law, "parameters": one.parameters, "error": one.error, "worst": one.worst, "coverage": one.coverage}
            for one in choice.candidates
        ]
        full["reason"] = choice.reason
    return Result(full, shown)


def _isoflop(table_, rows: Fitting, budgets: str, out: Path | None) -> Result:
    """``--law isoflop``: the optimum of every budget, then the power law through them."""
    from scalebound import scaling
    from scalebound.scaling.isoflop import as_fit

    seen = scaling.isoflop(
        table_, target=rows.target, budgets=_budgets(budgets), group=rows.group, level=rows.level, seed=rows.seed, drop_bad=rows.drop_bad
    )
    found = as_fit(seen, table_, seed=rows.seed)
    if out is not None:
        found.save(out)
    full = record(found)
    full["budgets"] = [msgspec.to_builtins(one) for one in seen.budgets]
    full["tokens"] = {"exponent": seen.tokens.exponent.record(), "coefficient": seen.tokens.coefficient.record()}
    body = [
        [
            f"{one.flops:.3g}",
            f"{one.params:.4g}",
            f"{one.tokens:.4g}",
            f"{one.loss:.4f}",
            f"{one.log_std:.2f}",
            "at the edge, left out" if one.edge else "",
        ]
        for one in seen.budgets
    ]
    shown = [
        table(["FLOPs", "best params", "tokens", "loss", "spread of log params", ""], body, title="optimum of every budget"),
        *view(found, out),
    ]
    return Result(full, shown)


def _budgets(text: str) -> int | tuple[float, ...] | None:
    """``--budgets 8`` or ``--budgets 1e17,1e18``."""
    from scalebound.core.errors import UsageError

    if not text:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--budgets is {text!r}", expected="FLOPs such as 1e17,3e17,1e18, or how many") from None
    if len(values) == 1 and values[0] < 1000 and values[0] == int(values[0]):
        return int(values[0])
    return values


def record(found) -> dict:
    """The --json object of a fit."""
    optimum = found.optimum
    return {
        "law": found.law,
        "target": found.target,
        "params": found.params,
        "intervals": {name: None if pair is None else list(pair) for name, pair in found.intervals.items()},
        "level": found.level,
        "objective": found.objective.value,
        "objective_kind": found.objective.kind,
        "delta": found.objective.delta,
        "residual": found.objective.residual,
        "n": found.n,
        "optimum": {
            "established": optimum.established,
            "gradient_norm": optimum.gradient_norm,
            "basins": optimum.basins,
            "next_best": optimum.next_best,
            "reason": optimum.reason,
        },
        "bootstrap": {"method": found.bootstrap.method, "count": found.bootstrap.count, "seed": found.bootstrap.seed},
        "residual_scale": found.scale,
        "widening": found.widening,
        "widening_reason": found.widening_reason,
        "columns": found.data.columns,
        "notes": list(found.notes),
        "warnings": list(found.warnings),
        "diagnosis": None if found.diagnosis is None else msgspec.to_builtins(found.diagnosis),
    }


def view(found, out) -> list:
    """What people see of a fit."""
    from scalebound import scaling

    law = scaling.law_of(found)
    meanings = {parameter.name: parameter.meaning for parameter in law.parameters}
    rows = []
    for name, value in found.params.items():
        pair = found.intervals[name]
        rows.append([name, f"{value:.6g}", "unknown" if pair is None else f"{pair[0]:.4g} to {pair[1]:.4g}", meanings[name]])
    lines: list = [f"{found.law}: {law.equation}    ({found.target}, {found.n} rows of {found.data.source})"]
    lines += [f"  {note}" for note in found.notes]
    lines.append(table(["parameter", "value", f"{found.level:.0%} interval", "meaning"], rows))
    objective = found.objective
    kind = (
        f"sum of Huber({objective.residual} residuals, delta {objective.delta:g})"
        if objective.kind == "huber"
        else f"sum of {objective.kind} of {objective.residual} residuals"
    )
    optimum = found.optimum
    lines.append(f"objective {objective.value:.10g}, {kind}; gradient norm {optimum.gradient_norm:.1e}")
    if optimum.established:
        lines.append(f"global optimum established: {optimum.reason}")
    if optimum.next_best is not None:
        lines.append(f"{optimum.basins} local minima met; the next best has objective {optimum.next_best:.6g}")
    if found.scale is not None:
        unit = "relative" if objective.residual == "log" else "in units of the target"
        lines.append(
            f"residual spread {found.scale:.3g} ({unit}); "
            f"intervals from {found.bootstrap.count:,} refits, resampling {found.bootstrap.method}"
        )
    if found.diagnosis is not None:
        lines.append("what the data identify:")
        lines += [f"  {one.words}" for one in found.diagnosis.profiles]
        shown = [
            [one.choice, one.n, *[f"{one.params[name]:.4g}{'*' if name in one.moved else ''}" for name in found.params]]
            for one in found.diagnosis.refits
        ]
        if shown:
            lines.append(table(["other choice", "rows", *found.params], shown, caption="* outside its interval above"))
        lines.append(
            "rows that decide most: "
            + "; ".join(f"row {one.row} moves {one.parameter} by {one.shift:.2f} standard errors" for one in found.diagnosis.influence)
        )
    if found.widening_reason:
        lines.append(f"forecast intervals: {found.widening_reason}")
    lines += [f"warning: {warning}" for warning in found.warnings]
    if out is not None:
        at = ",".join(f"{name}={high:.3g}" for name, (low, high) in found.data.ranges.items())
        ask = "SCHEDULE.csv" if "curve" in found.inputs else f"--at {at}"
        lines.append(f"saved {out}; next: scalebound forecast {out} {ask}")
    return lines
