"""``scalebound forecast``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.output import Result, table


def forecast(
    fit: Annotated[Path, Parameter(name="FIT")],
    rows: Annotated[Path | None, Parameter(name="TABLE")] = None,
    /,
    *,
    at: list[str] | None = None,
    then: list[Path] | None = None,
    columns: str = "",
    where: str = "",
    group: str | None = None,
    level: float | None = None,
    seed: int = 0,
) -> Result:
    """Predict the target of a fitted law at sizes not trained, with an interval that includes the noise of a single run.

    Parameters
    ----------
    fit
        A fitted law saved by `scalebound fit --out`.
    rows
        Table with the law's input columns; or use --at.
    at
        One point, name=number: params=1e9,tokens=2e10. May be given several times.
    then
        A further fit applied to what the first predicts (error from loss); may be given several times. Uncertainty is carried through.
    columns
        Renames for the table, new=old.
    where
        Conditions on the table's rows.
    group
        Column naming the curve of a row, for annealing and multipower.
    level
        Level of the intervals; that of the fit when not given.
    seed
        Seed of the residual noise.

    Examples
    --------
    scalebound forecast law.json --at params=1e9,tokens=2e10
    scalebound forecast loss.json planned_runs.csv --then error.json --json

    next: scalebound plan law.json --flops 1e21
    """
    from scalebound import scaling
    from scalebound.core.errors import UsageError
    from scalebound.scaling.rows import parse_points
    from scalebound.scaling.table import from_columns

    if (rows is None) == (not at):
        raise UsageError("give a table or --at, not both", expected="scalebound forecast FIT TABLE, or FIT --at name=number,...")
    points = from_columns(parse_points(at), source="--at") if at else rows
    assert points is not None
    found = scaling.forecast(fit, points, columns=columns, where=where, group=group, then=then or (), level=level, seed=seed)
    records = found.records()
    names = list(found.inputs)
    body = []
    for row in records:
        interval = "unknown" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
        body.append([*[f"{row[name]:.6g}" for name in names], f"{row['value']:.4f}", interval, f"{row['decades_beyond']:.1f}"])
    shown = table([*names, found.target, f"{found.level:.0%} interval", "decades beyond the data"], body)
    record = {"target": found.target, "level": found.level, "rows": records, "warnings": list(found.warnings)}
    return Result(record, [shown, *[f"warning: {warning}" for warning in found.warnings]])
