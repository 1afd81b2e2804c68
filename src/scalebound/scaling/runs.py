"""Run logs as tables: many rows along each run become one row, or a smoother log.

* :func:`last_mean`: one row per run, numbers averaged over its last k rows (evaluation noise averages out, size columns are those of
  the last row).
* :func:`smoothed`: every row after the first share of a run, its measured columns replaced by a trailing moving average.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.scaling.table import ALIASES, Table

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
