"""``scalebound resample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.numbers import parse_numbers
from scalebound.cli.output import Result, table


def resample(
    data: Annotated[Path, Parameter(name="TABLE")],
    /,
    *,
    wrong_cost: float = 1.0,
    draw_cost: float = 0.0,
    draws: str = "1,3,10,30,100,1000",
    columns: str = "",
    where: str = "",
) -> Result:
    """Say what repeated sampling against an imperfect verifier can reach: the ceiling, and the best number of draws.

    Exact for the given per-item probabilities; their own uncertainty is not included, so no interval is printed.

    Parameters
    ----------
    data
        Table with a row per item: correct (probability per draw) and false_positive (that a wrong answer passes, per draw).
    wrong_cost
        What a returned wrong answer costs, in units of a correct one.
    draw_cost
        What a draw costs, in the same units.
    draws
        Numbers of draws to tabulate.
    columns
        Renames, new=old.
    where
        Conditions on rows.

    Examples
    --------
    scalebound resample items.csv --wrong-cost 2
    scalebound resample items.csv --columns correct=pass,false_positive=fooled --draw-cost 0.001 --json

    next: scalebound emergence samples.csv
    """
    import numpy as np

    from scalebound.core.errors import InputError
    from scalebound.scaling import read_table
    from scalebound.scaling.laws.resampling import best_draws, ceiling, outcomes
    from scalebound.scaling.rows import find_column

    items = read_table(data, columns=columns, where=where)
    p, f = find_column(items, "correct", {}), find_column(items, "false_positive", {})
    bad = ~((p >= 0) & (f >= 0) & (p + f <= 1 + 1e-12))
    if bad.any():
        k = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"correct is {p[k]:g} and false_positive {f[k]:g}",
            where=f"{items.source}, row {items.rows[k]}",
            expected="probabilities that add up to at most 1",
        )
    K = np.array([int(k) for k in parse_numbers(draws, "--draws")])
    right, wrong, spent = outcomes(p, f, K)
    best = best_draws(p, f, wrong_cost=wrong_cost, draw_cost=draw_cost)
    returned = right + wrong
    rows = [
        {
            "draws": int(K[k]),
            "correct": float(right[k]),
            "wrong": float(wrong[k]),
            "accuracy": float(right[k] / returned[k]) if returned[k] > 0 else None,
            "mean_draws": float(spent[k]),
        }
        for k in range(len(K))
    ]
    top = ceiling(p, f)
    record = {
        "items": len(p),
        "ceiling": top,
        "best": {"draws": best.draws, "utility": best.utility, "finite": best.finite},
        "wrong_cost": wrong_cost,
        "draw_cost": draw_cost,
        "rows": rows,
    }
    body = [
        [
            row["draws"],
            f"{row['correct']:.4f}",
            f"{row['wrong']:.4f}",
            "-" if row["accuracy"] is None else f"{row['accuracy']:.4f}",
            f"{row['mean_draws']:.2f}",
        ]
        for row in rows
    ]
    words = f"best number of draws: {best.draws} (utility {best.utility:.4f} an item)" if best.finite else "more draws never hurt here"
    return Result(
        record,
        [
            table(["at most draws", "correct", "wrong", "accuracy of what is returned", "mean draws"], body, title=f"{len(p)} items"),
            f"accuracy of returned answers tends to {top:.4f} however many draws are allowed",
            f"{words}, at {wrong_cost:g} per wrong answer and {draw_cost:g} per draw; interval unknown: probabilities are taken as exact",
        ],
    )
