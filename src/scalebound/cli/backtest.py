"""``scalebound backtest``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.fitting import Fitting, given
from scalebound.cli.output import Result, table


def backtest(
    data: Annotated[Path, Parameter(name="TABLE")],
    /,
    *,
    law: str = "chinchilla",
    rows: Fitting | None = None,
    limit: float | None = None,
    folds: int = 4,
    bootstrap: int = 300,
) -> Result:
    """Would this law have predicted your larger runs? Fit below a size, predict above it, for several sizes.

    Parameters
    ----------
    data
        Table of runs, as for `scalebound fit`.
    law
        Name of the law.
    limit
        One size to split at (FLOPs when params and tokens are known, else the law's input); rolling sizes when not given.
    folds
        How many rolling sizes.
    bootstrap
        Refits behind each interval.

    Examples
    --------
    scalebound backtest runs.csv --law chinchilla
    scalebound backtest runs.csv --law power --target loss --limit 1e8 --json

    next: scalebound fit runs.csv --law chinchilla --out law.json
    """
    from scalebound import scaling
    from scalebound.core.errors import UsageError
    from scalebound.scaling.backtest import widening

    rows = rows or Fitting()
    if law == "auto":
        raise UsageError("a backtest is of one law", expected="its name", hint=f"scalebound fit {data} --law auto compares laws by backtest")
    seen = scaling.backtest(
        rows.table(data, law), law, **rows.rows(), **rows.penalty(), limit=limit, folds=folds, bootstrap=bootstrap, fix=given(rows.fix)
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
        above = seen.limit == limit_
        inside = (seen.low[above] <= seen.truth[above]) & (seen.truth[above] <= seen.high[above])
        body.append(
            [
                f"{limit_:.3g}",
                trained,
                int(above.sum()),
                f"{seen.errors[above].mean():.2%}",
                f"{seen.errors[above].max():.2%}",
                f"{inside.mean():.0%}",
                f"{seen.size[above].max() / limit_:.1f}x" if limit_ > 0 else "",
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
        view.append(
            f"intervals of this law on these data should be {factor:.2f} times wider: scalebound fit does that, unless told --no-widen"
        )
    return Result(record, view)
