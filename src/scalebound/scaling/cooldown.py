"""Logs of cooldowns as a table: one row per cooldown, with the loss where it begins and the loss where it ends.

A log holds the rows at constant rate and the rows at the ends of cooldowns under one another. A cooldown that takes a share f of the run
ends at (1 + f) times the tokens it began at; f is not asked for but read off the log, as the ratio that recurs most among the pairs of
one run. What comes out are the columns of the law ``cooldown``.
"""

from __future__ import annotations

import numpy as np

from scalebound.core.errors import InputError
from scalebound.scaling.rows import find_column
from scalebound.scaling.table import ALIASES, Table, select

SAME = 0.02  # relative difference of tokens within which two rows are at the same place
LONGEST = 4.0  # a cooldown ends before this multiple of its beginning


def cooldowns(table: Table, *, begin: str, end: str, group: str, share: float | None = None) -> Table:
    """Join the rows where cooldowns begin with those where they end.

    Parameters
    ----------
    begin, end : conditions on rows, as for ``where``: "set=cool_begin", "set=cool_end"
    group : the column that names a run; beginnings and ends of one run belong together
    share : > 0, tokens of a cooldown over tokens before it; read off the log when not given

    Returns
    -------
    Table                        the columns of the beginnings (``loss``, ``tokens``, ``params``, ...) and ``cooldown_loss``

    Raises
    ------
    InputError                   no end has a beginning in the same run

    Examples
    --------
    >>> from scalebound.scaling.table import from_columns
    >>> log = from_columns({"run": list("aaaa"), "set": ["hot", "hot", "cold", "cold"], "tokens": [1e9, 2e9, 1.1e9, 2.2e9],
    ...                     "loss": [3.0, 2.8, 2.9, 2.65]})
    >>> cooldowns(log, begin="set=hot", end="set=cold", group="run")["cooldown_loss"].tolist()
    [2.9, 2.65]
    """
    column = next((alias for alias in (group, *ALIASES.get(group, ())) if alias in table), None)
    if column is None:
        raise InputError(f"no column {group!r} to group by", where=table.source, expected=f"one of {', '.join(table.columns)}")
    first, last = select(table, where=begin), select(table, where=end)
    (a, tokens_a), (b, tokens_b) = ((part[column], find_column(part, "tokens", {})) for part in (first, last))
    found: dict[str, str] = {}
    loss = find_column(last, "loss", found)
    same_run = a[:, None] == b[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(same_run, tokens_b[None, :] / tokens_a[:, None], np.nan)
    usual = _commonest(ratio[(ratio > 1 + SAME / 2) & (ratio < LONGEST)]) if share is None else 1.0 + share
    distance = np.where(np.isfinite(ratio), np.abs(np.log(ratio / usual)), np.inf) if usual else np.full(ratio.shape, np.inf)
    nearest = np.argmin(distance, axis=0)
    joined = np.flatnonzero(distance[nearest, np.arange(len(b))] < SAME)
    if usual is None or not len(joined):
        raise InputError(
            f"no row of {end!r} continues a row of {begin!r} in the same {group}",
            where=table.source,
            expected="ends of cooldowns with a little more tokens than their beginnings",
        )
    notes = [f"{len(joined)} cooldowns, each {usual - 1:.3g} of the tokens before it; cooldown_loss is {found['loss']} where {end}"]
    if len(joined) < len(b):
        notes.append(f"{len(b) - len(joined)} rows of {end} have no beginning and are left out")
    out = first.take(nearest[joined])
    return out.with_columns(cooldown_loss=np.asarray(loss)[joined]).noted(*notes)


def _commonest(ratios: np.ndarray) -> float | None:
    """The ratio with most others within a quarter of :data:`SAME` of it: their median."""
    if not len(ratios):
        return None
    near = np.abs(np.log(ratios[:, None] / ratios[None, :])) < SAME / 4
    return float(np.median(ratios[near[int(np.argmax(near.sum(axis=1)))]]))
