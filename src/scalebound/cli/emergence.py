"""``scalebound emergence``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.output import Result, table


def emergence(
    data: Annotated[Path, Parameter(name="TABLE")],
    /,
    *,
    above: float | None = None,
    until: int | None = None,
    columns: str = "",
    where: str = "",
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Result:
    """Estimate pass rates, fit PU = exp(-c N^-alpha) to smaller models, and test whether larger ones depart from it.

    Parameters
    ----------
    data
        Table with params and one of: pass_rate; passed (0 or 1, a row per sample); draws (samples needed for --until passes).
    above
        Models with more parameters than this are tested; the largest alone when not given.
    until
        Passes after which sampling stopped; rates are then estimated without bias from draws.
    columns
        Renames, new=old.
    where
        Conditions on rows.
    bootstrap
        Refits behind the prediction.
    level
        Level of the intervals and, as 1 - level, of the test.
    seed
        Seed of the bootstrap.

    Examples
    --------
    scalebound emergence samples.csv --above 1e9
    scalebound emergence until.csv --until 2 --columns draws=attempts --json

    next: scalebound fit rates.csv --law passuntil --out rates.json
    """
    from scalebound import scaling

    seen = scaling.emergence(data, above=above, until=until, columns=columns, where=where, bootstrap=bootstrap, level=level, seed=seed)
    found = seen.departure
    rows = [
        {"params": float(n), "pass_rate": float(rate), "tested": bool(tested)}
        for n, rate, tested in zip(seen.params, seen.pass_rate, seen.tested, strict=True)
    ]
    record = {
        "rows": rows,
        "estimate": seen.estimate,
        "params": seen.fit.params,
        "intervals": {name: None if pair is None else list(pair) for name, pair in seen.fit.intervals.items()},
        "level": level,
        "p_value": found.p_value,
        "direction": found.direction,
        "verdict": found.verdict,
        "warnings": list(seen.fit.warnings),
    }
    body = [[f"{row['params']:.4g}", f"{row['pass_rate']:.4g}", "tested" if row["tested"] else ""] for row in rows]
    parts = []
    for name, value in seen.fit.params.items():
        pair = seen.fit.intervals[name]
        parts.append(f"{name} = {value:.4g}" + ("" if pair is None else f" ({pair[0]:.3g} to {pair[1]:.3g})"))
    line = ", ".join(parts)
    view = [table(["params", "pass rate", ""], body, title=f"pass rates: {seen.estimate}"), f"PU = exp(-c N^-alpha): {line}", found.verdict]
    return Result(record, [*view, *[f"warning: {warning}" for warning in seen.fit.warnings]])
