"""``scalebound mix``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.numbers import parse_numbers
from scalebound.cli.output import Result, table


def mix(
    data: Annotated[Path, Parameter(name="POOLS")],
    /,
    *,
    samples: str,
    columns: str = "",
    where: str = "",
) -> Result:
    """Choose which data pools to train on for each number of samples: quality wins while compute is short, quantity later.

    Exact for the given utilities and half-lives (fit them with `scalebound fit POOL.csv --law filtering`); their own uncertainty is
    not included, so no interval is printed.

    Parameters
    ----------
    data
        Table with a row per pool: name, size (samples in it), utility (b of the law filtering), half_life (its tau).
    samples
        Numbers of training samples, for example 1e9,1e10,1e11.
    columns
        Renames, new=old.
    where
        Conditions on rows.

    Examples
    --------
    scalebound mix pools.csv --samples 1e8,1e9,1e10
    scalebound mix pools.csv --samples 1e9 --columns utility=b,half_life=tau --json

    next: scalebound fit pool.csv --law filtering
    """
    from scalebound.core.errors import InputError
    from scalebound.scaling import read_table
    from scalebound.scaling.laws.filtering import Pool, best_mix, mixture_error
    from scalebound.scaling.rows import find_column

    found = read_table(data, columns=columns, where=where)
    if "name" not in found:
        raise InputError("no column 'name'", where=found.source, expected=f"names of the pools; the table has {', '.join(found.columns)}")
    numbers = [find_column(found, name, {}) for name in ("size", "utility", "half_life")]
    pools = []
    for k, (name, size, utility, half_life) in enumerate(zip(found["name"], *numbers, strict=True)):
        if not (1 <= size < float("inf") and 0 <= utility < float("inf") and 0 < half_life < float("inf")):
            raise InputError(
                f"pool {name}: size {size:g}, utility {utility:g}, half_life {half_life:g}",
                where=f"{found.source}, row {found.rows[k]}",
                expected="a size of at least 1, a utility of at least 0, a positive half-life",
            )
        pools.append(Pool(str(name), float(size), float(utility), float(half_life)))
    rows: list[dict] = []
    for count in parse_numbers(samples, "--samples"):
        names, error = best_mix(pools, count)
        single, alone = min(((pool.name, mixture_error([pool], count)) for pool in pools), key=lambda one: one[1])
        epochs = count / sum(pool.size for pool in pools if pool.name in names)
        rows.append(
            {
                "samples": count,
                "pools": list(names),
                "relative_error": error,
                "epochs": epochs,
                "best_single": single,
                "best_single_error": alone,
            }
        )
    body = [
        [
            f"{row['samples']:.3g}",
            " + ".join(row["pools"]),
            f"{row['epochs']:.2f}",
            f"{row['relative_error']:.4g}",
            f"{row['best_single']} ({row['best_single_error']:.4g})",
        ]
        for row in rows
    ]
    return Result(
        {"pools": [pool.name for pool in pools], "rows": rows},
        [
            table(["samples", "best mix", "epochs", "error, relative to one sample", "best single pool"], body),
            "intervals unknown: utilities are taken as exact",
        ],
    )
