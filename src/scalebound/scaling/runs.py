"""Run logs as tables: many rows along each run become one row, or a smoother log.

* :func:`last_mean`: one row per run, numbers averaged over its last k rows (evaluation noise averages out, size columns are those of
  the last row).
* :func:`smoothed`: every row after the first share of a run, its measured columns replaced by a trailing moving average.
* :func:`along_runs`: the loss of every run at given budgets, for an isoFLOP analysis of whole runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.scaling.table import ALIASES, Table

MIN_SIZES = 4  # different sizes a budget of an isoFLOP analysis needs
# columns that say where a row is rather than what was measured there: never averaged
POSITION = {"step", "tokens", "flops", "params", "unique_tokens", "lr", "batch_tokens"}


def _is_position(name: str) -> bool:
    return any(name == alias for key in POSITION for alias in (key, *ALIASES.get(key, ())))


def _runs(table: Table, group: str) -> Iterator[np.ndarray]:
    """Row positions of every run, in training order (by step or tokens where there is such a column)."""
    column = next((alias for alias in (group, *ALIASES.get(group, ())) if alias in table), None)
    if column is None:
        raise InputError(f"no column {group!r} to group by", where=table.source, expected=f"one of {', '.join(table.columns)}")
    values = table[column]
    clock = next(
        (alias for key in ("step", "tokens") for alias in (key, *ALIASES[key]) if alias in table and table[alias].dtype.kind == "f"), None
    )
    for name in dict.fromkeys(values.tolist()):
        rows = np.flatnonzero(np.array([value == name for value in values]))
        yield rows if clock is None else rows[np.argsort(table[clock][rows], kind="stable")]


def last_mean(table: Table, group: str, k: int) -> Table:
    """One row per run: measured numbers are the mean of the last ``k`` rows that have one.

    >>> from scalebound.scaling.table import from_columns
    >>> log = from_columns({"run": ["a", "a", "b", "b"], "step": [1, 2, 1, 2], "loss": [4.0, 2.0, 3.0, 1.0]})
    >>> last_mean(log, "run", 2)["loss"].tolist()
    [3.0, 2.0]
    """
    if k < 1:
        raise UsageError(f"--last is {k}", expected="at least 1")
    runs = list(_runs(table, group))
    ends = np.array([rows[-1] for rows in runs])
    columns = {}
    for name, values in table.columns.items():
        if values.dtype.kind != "f" or _is_position(name):
            columns[name] = values[ends]
        else:
            columns[name] = np.array([_mean(values[rows[-k:]]) for rows in runs])
    return Table(
        columns,
        table.source,
        table.sha256,
        (*table.notes, f"{len(runs)} runs: mean of the last {k} rows of each {group}"),
        table.rows[ends],
        table.renamed,
        table.where,
    )


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def smoothed(table: Table, group: str, k: int, skip: float = 0.0) -> Table:
    """Moving averages of ``k`` rows along each run, after dropping the first share ``skip`` of it (by rows)."""
    if k < 1:
        raise UsageError(f"--average is {k}", expected="at least 1")
    if not 0 <= skip < 1:
        raise UsageError(f"--skip is {skip}", expected="a share of at least 0 and below 1")
    kept: list[np.ndarray] = []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in table.columns}
    for rows in _runs(table, group):
        rows = rows[int(np.ceil(skip * len(rows))) :]
        if len(rows) < k:
            continue
        kept.append(rows[k - 1 :])
        for name, values in table.columns.items():
            if values.dtype.kind != "f" or _is_position(name):
                parts[name].append(values[rows[k - 1 :]])
            else:
                parts[name].append(np.convolve(values[rows], np.full(k, 1.0 / k), mode="valid"))
    if not kept:
        raise InputError(f"no run has {k} rows", where=table.source, expected="longer runs or a shorter average")
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    note = f"moving average of {k} rows along each {group}" + (f", the first {skip:.0%} of each left out" if skip else "")
    return Table(columns, table.source, table.sha256, (*table.notes, note), table.rows[np.concatenate(kept)], table.renamed, table.where)


def spread_budgets(N: np.ndarray, C: np.ndarray, run: np.ndarray, count: int) -> tuple[float, ...]:
    """``count`` budgets, evenly in log flops, over the compute that at least four sizes reach with their runs."""
    if count < 2:
        raise UsageError(f"budgets is {count}", expected="at least 2, or FLOPs such as 1e17,3e17,1e18")
    ends: dict[float, list[float]] = {}
    for name in dict.fromkeys(run.tolist()):
        rows = run == name
        low, high = float(C[rows].min()), float(C[rows].max())
        seen = ends.setdefault(float(N[rows][-1]), [low, high])
        ends[float(N[rows][-1])] = [min(seen[0], low), max(seen[1], high)]
    if len(ends) < MIN_SIZES:
        raise InputError(f"{len(ends)} different sizes", expected=f"at least {MIN_SIZES}")
    low = sorted(pair[0] for pair in ends.values())[MIN_SIZES - 1]
    high = sorted((pair[1] for pair in ends.values()), reverse=True)[MIN_SIZES - 1]
    if not low < high:
        raise InputError(
            "no stretch of compute is shared by four sizes", expected="runs that overlap in flops", hint="give --budgets yourself"
        )
    return tuple(np.geomspace(low, high, count).tolist())


def still_hot(data: Table, run: np.ndarray, C: np.ndarray, budgets: Sequence[float]) -> list[str]:
    """A warning when the learning rate at a budget is well above the run's last: that loss is not the loss of a run of that length."""
    name = next((alias for alias in ALIASES["lr"] if alias in data and data[alias].dtype.kind == "f"), None)
    if name is None:
        return []
    early = total = 0
    for one in dict.fromkeys(run.tolist()):
        rows = np.flatnonzero(run == one)
        rows = rows[np.argsort(C[rows])]
        lr = data[name][rows]
        for budget in budgets:
            if C[rows[0]] <= budget <= C[rows[-1]]:
                total += 1
                early += bool(np.interp(math.log(budget), np.log(C[rows]), lr) > 2 * lr[-1])
    if not early:
        return []
    return [
        f"at {early} of {total} crossings of a run and a budget the learning rate is still more than twice the run's last: losses there are "
        "above those of runs meant to end there, which shifts the optimum; use runs of constant rate, or ends of runs"
    ]


def along_runs(
    N: np.ndarray, C: np.ndarray, loss: np.ndarray, run: np.ndarray, budgets: Sequence[float], *, tolerance: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss of every run at every budget: log loss interpolated in log flops.

    A run must come within ``tolerance`` (in log flops) of a budget or pass it.
    """
    out: list[tuple[float, float, float]] = []
    for name in dict.fromkeys(run.tolist()):
        rows = np.flatnonzero(run == name)
        rows = rows[np.argsort(C[rows])]
        x, y = np.log(C[rows]), np.log(loss[rows])
        for budget in budgets:
            at = math.log(budget)
            if x[0] - tolerance <= at <= x[-1] + tolerance:
                out.append((float(N[rows[-1]]), budget, float(np.exp(np.interp(at, x, y)))))
    if not out:
        raise InputError("no run reaches any of the budgets", expected=f"budgets between {C.min():.3g} and {C.max():.3g} flops")
    a, b, c = np.array(out).T
    return a, b, c
