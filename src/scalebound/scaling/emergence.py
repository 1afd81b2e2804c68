"""``emergence``: do larger models pass a task more or less often than the pass rates of smaller ones predict?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.scaling.fit import check_level, fit
from scalebound.scaling.fitted import Fit
from scalebound.scaling.laws.passuntil import Departure, departure, pass_until
from scalebound.scaling.rows import find_column
from scalebound.scaling.table import Table, as_table


@dataclass(frozen=True)
class Emergence:
    """Pass rates by size, the line through the smaller sizes, and whether the larger ones depart from it."""

    params: np.ndarray
    pass_rate: np.ndarray
    tested: np.ndarray  # bool, one per size
    fit: Fit
    departure: Departure
    estimate: str  # how the rates were found


def rates(table: Table, *, until: int | None = None) -> tuple[np.ndarray, np.ndarray, str]:
    """Sizes, pass rates and how they were found: from ``pass_rate``; ``draws`` until ``until`` passes; or ``passed`` (0 or 1) per sample.

    ``draws`` are averaged over rows of one size (the mean of unbiased estimates is unbiased), ``passed`` likewise.

    Raises
    ------
    InputError      none of the columns is there, or ``passed`` holds something else than 0 and 1
    UsageError      ``draws`` without ``until``, or ``until`` without ``draws``
    """
    size = find_column(table, "params", {})
    if until is not None and "draws" not in table:
        raise UsageError("--until needs a column draws", expected=f"one of {', '.join(table.columns)} renamed: --columns draws=COLUMN")
    if until is not None:
        value, how = pass_until(find_column(table, "draws", {}), until), f"(r - 1)/(draws - 1) with r = {until}, unbiased"
    elif "passed" in table:
        value, how = find_column(table, "passed", {}), "share of samples that passed"
        wrong = ~np.isin(value, (0.0, 1.0))
        if wrong.any():
            k = int(np.flatnonzero(wrong)[0])
            raise InputError(f"passed is {value[k]:g}", where=f"{table.source}, row {table.rows[k]}", expected="0 or 1")
    elif "pass_rate" in table:
        value, how = find_column(table, "pass_rate", {}), "as given"
    elif "draws" in table:
        raise UsageError("the table has draws but not when sampling stopped", expected="--until R, the number of passes sampled for")
    else:
        raise InputError(
            "no pass rates", where=table.source, expected="a column pass_rate, passed (0 or 1 per sample), or draws with --until R"
        )
    bad = ~np.isfinite(size) | (size <= 0) | ~np.isfinite(value) | (value < 0) | (value > 1)
    if bad.any():
        k = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"params is {size[k]:g} and the pass rate {value[k]:g}",
            where=f"{table.source}, row {table.rows[k]}",
            expected="a positive size and a rate between 0 and 1",
        )
    sizes, place = np.unique(size, return_inverse=True)
    mean = np.bincount(place, weights=value) / np.bincount(place)
    if np.any(mean <= 0):
        raise InputError(
            f"no sample of the model with {sizes[mean <= 0][0]:g} params passed",
            where=table.source,
            expected="a rate above 0 at every size",
            hint="draw until a few samples have passed, and give the column draws with --until",
        )
    return sizes, mean, how


def emergence(
    table: Table | str | os.PathLike | Mapping[str, object],
    *,
    above: float | None = None,
    until: int | None = None,
    columns: str = "",
    where: str = "",
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Emergence:
    """Fit :math:`\\mathrm{PU}(N) = \\exp(-c N^{-\\alpha})` to the models up to ``above`` and test the larger ones against it.

    Parameters
    ----------
    table : columns params and one of pass_rate, passed, draws (see :func:`rates`)
    above : models with more parameters are tested; the largest alone when not given
    until : passes after which sampling stopped, for the column draws

    Raises
    ------
    InputError      too few sizes to fit (three below the tested ones), rates outside (0, 1]
    UsageError      ``above`` leaves none on one side

    Source
    ------
    Hu et al. 2023, arXiv 2310.03262; the test is :func:`~scalebound.scaling.laws.passuntil.departure`.

    Examples
    --------
    >>> n = np.geomspace(1e7, 1e9, 8)
    >>> seen = emergence({"params": n, "pass_rate": np.exp(-2e3 * n**-0.35) * (1 + 0.01 * np.sin(7 * np.arange(8)))}, bootstrap=200)
    >>> seen.departure.direction
    'none'
    """
    check_level(level)
    sizes, rate, how = rates(as_table(table, columns=columns, where=where), until=until)
    tested = sizes > (sizes[-2] if above is None and len(sizes) > 1 else -1.0 if above is None else above)
    if tested.all() or not tested.any():
        raise UsageError("no model on one side of the split", expected=f"a size between {sizes[0]:g} and {sizes[-1]:g}")
    if np.sum(~tested) < 3:
        raise InputError(f"{int(np.sum(~tested))} sizes to fit the line to", expected="at least 3 below the tested ones")
    found = fit(
        {"params": sizes[~tested], "pass_rate": rate[~tested]}, "passuntil", bootstrap=bootstrap, level=level, seed=seed, widen=False
    )
    return Emergence(sizes, rate, tested, found, departure(found, sizes[tested], rate[tested], level=level), how)
