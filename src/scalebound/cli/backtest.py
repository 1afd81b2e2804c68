"""``scalebound backtest``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.output import Result, table


def backtest(
    data: Annotated[Path, Parameter(name="TABLE")],
    /,
    *,
    law: str = "chinchilla",
    target: str | None = None,
    columns: str = "",
    where: str = "",
    limit: float | None = None,
    folds: int = 4,
    huber: float | None = None,
    squares: bool = False,
    absolute: bool = False,
    bootstrap: int = 300,
    group: str | None = None,
    last: int | None = None,
    average: int | None = None,
    skip: float = 0.0,
    weights: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    drop_bad: bool = False,
    fix: str = "",
) -> Result:
    """Would this law have predicted your larger runs? Fit below a size, predict above it, for several sizes.

    Parameters
    ----------
    data
        Table of runs, as for `scalebound fit`.
    law
        Name of the law.
    target
        Column to explain.
    columns
        Renames, new=old.
    where
        Conditions on rows.
    limit
        One size to split at (FLOPs when params and tokens are known, else the law's input); rolling sizes when not given.
    folds
        How many rolling sizes.
    huber
        Width delta of Huber's penalty of log residuals.
    squares
        Least squares of the target itself.
    absolute
        Least absolute log residuals.
    bootstrap
        Refits behind each interval.
    group
        Column naming the run of a row.
    last
        One row per run of --group: the mean of its last so many rows.
    average
        Moving average over so many rows along each run of --group.
    skip
        With --average: leave out this first share of every run.
    weights
        Column of row weights.
    level
        Level of the intervals whose coverage is measured.
    seed
        Seed of the bootstrap.
    drop_bad
        Leave out rows that cannot be used.
    fix
        Parameters given instead of fitted.

    Examples
    --------
    scalebound backtest runs.csv --law chinchilla
    scalebound backtest runs.csv --law power --target loss --limit 1e8 --json

    next: scalebound fit runs.csv --law chinchilla --out law.json
    """
    from scalebound import scaling
    from scalebound.cli.fit import given, kind_of, table_of
    from scalebound.scaling.backtest import widening

    rows = table_of(data, columns, where, group, last, average, skip)
    seen = scaling.backtest(
        rows,
        law,
        target=target,
        objective=kind_of(huber, squares, absolute),
        delta=1e-3 if huber is None else huber,
        limit=limit,
        folds=folds,
        bootstrap=bootstrap,
        group=group,
        weights=weights,
        level=level,
        seed=seed,
        drop_bad=drop_bad,
        fix=given(fix),
    )
    factor = widening(seen)
    record = {
        "law": seen.law,
        "target": seen.target,
        "ordered_by": seen.order,
        "level": seen.level,
        "rows": seen.records(),
        "mean_abs_relative_error": seen.mean_abs_relative_error,
        "coverage": seen.coverage,
        "widening": factor,
        "limits": [{"limit": limit, "trained": trained} for limit, trained in zip(seen.limits, seen.trained, strict=True)],
    }
    body = []
    for limit_, trained in zip(seen.limits, seen.trained, strict=True):
        rows = seen.limit == limit_
        inside = (seen.low[rows] <= seen.truth[rows]) & (seen.truth[rows] <= seen.high[rows])
        body.append(
            [
                f"{limit_:.3g}",
                trained,
                int(rows.sum()),
                f"{seen.errors[rows].mean():.2%}",
                f"{seen.errors[rows].max():.2%}",
                f"{inside.mean():.0%}",
                f"{seen.size[rows].max() / limit_:.1f}x" if limit_ > 0 else "",
            ]
        )
    coverage = "unknown" if seen.coverage is None else f"{seen.coverage:.0%}"
    view = [
        table(
            [f"fitted up to ({seen.order})", "rows", "predicted", "mean error", "worst", f"inside {seen.level:.0%}", "reach"],
            body,
            title=f"{seen.law}: small predicts large",
        ),
        f"mean |error| {seen.mean_abs_relative_error:.2%} over {len(seen.row)} predictions; "
        f"{seen.level:.0%} intervals held {coverage} of the truths",
    ]
    if factor > 1:
        view.append(f"intervals of this law on these data should be {factor:.2f} times wider: scalebound fit does that, unless told --no-widen")
    return Result(record, view)
