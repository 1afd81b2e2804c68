"""``scalebound critical-batch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.numbers import parse_numbers
from scalebound.cli.output import Result, table


def critical_batch(
    fit: Annotated[Path, Parameter(name="FIT")],
    /,
    *,
    params: float,
    loss: float,
    batch: str = "1e4,1e5,1e6,1e7",
    level: float | None = None,
) -> Result:
    """Trade steps against tokens: what each batch size costs to reach a loss, from a fit of the law critical-batch.

    Parameters
    ----------
    fit
        A fit saved by `scalebound fit --law critical-batch --out`.
    params
        Parameters of the model.
    loss
        Loss to reach, nats per token.
    batch
        Batch sizes in tokens, separated by commas.
    level
        Level of the intervals; that of the fit when not given.

    Examples
    --------
    scalebound critical-batch batch.json --params 1e8 --loss 3.5
    scalebound critical-batch batch.json --params 1e9 --loss 2.9 --batch 5e5,2e6 --json

    next: scalebound plan law.json --flops 1e21
    """
    import numpy as np

    from scalebound.core.errors import InputError, UsageError
    from scalebound.scaling import load_fit
    from scalebound.scaling.fit import check_level
    from scalebound.scaling.laws.critical_batch import tradeoff

    found = load_fit(fit)
    if found.law != "critical-batch":
        raise UsageError(f"{fit} is a fit of {found.law}", expected="a fit of the law critical-batch")
    if not (0 < params < float("inf") and 0 < loss < float("inf")):
        raise UsageError("--params and --loss must be positive", expected="for example --params 1e8 --loss 3.5")
    level = found.level if level is None else level
    check_level(level)
    names = list(found.params)
    rows, missed = [], 0
    for size in parse_numbers(batch, "--batch"):
        best = tradeoff(found.params, params=params, loss=loss, batch_tokens=size)
        seen = []
        for draw in found.draws:
            try:
                way = tradeoff(dict(zip(names, draw, strict=True)), params=params, loss=loss, batch_tokens=size)
            except InputError:  # under this draw the model never gets there
                missed += 1
                continue
            seen.append((way.steps, way.tokens, way.critical_batch))
        row: dict = {"batch_tokens": size}
        for k, name in enumerate(("steps", "tokens", "critical_batch")):
            low, high = np.quantile([one[k] for one in seen], [(1 - level) / 2, (1 + level) / 2]) if len(seen) >= 20 else (None, None)
            row[name] = {
                "value": getattr(best, name),
                "low": None if low is None else float(low),
                "high": None if high is None else float(high),
            }
        rows.append(row)
    warnings = []
    if missed:
        warnings.append(
            f"under {missed / (len(rows) * len(found.draws)):.0%} of the draws this model never reaches the loss: intervals leave those out"
        )

    def cells(one: dict) -> list[str]:
        return [f"{one['value']:.4g}", "unknown" if one["low"] is None else f"{one['low']:.3g} to {one['high']:.3g}"]

    body = [[f"{row['batch_tokens']:.3g}", *cells(row["steps"]), *cells(row["tokens"])] for row in rows]
    critical = cells(rows[0]["critical_batch"])
    headers = ["batch, tokens", "steps", f"{level:.0%} interval", "tokens", f"{level:.0%} interval"]
    return Result(
        {"params": params, "loss": loss, "level": level, "rows": rows, "warnings": warnings},
        [
            table(headers, body, title=f"{params:.3g} parameters to a loss of {loss:g}"),
            f"critical batch {critical[0]} tokens ({critical[1]}): there both steps and tokens are twice their least",
            *[f"warning: {warning}" for warning in warnings],
        ],
    )
