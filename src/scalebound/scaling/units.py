"""Bits among nats, told by the law itself: losses that lie on the curve only after some of them are multiplied by ln 2.

No single loss betrays its unit. A table that mixes them does: fitted together, the rows scatter by up to a factor of 1/ln 2 = 1.443; sorted
into two heaps, one of them converted, they lie on one curve again. The heaps are found by turns (sort the rows by which of the two readings
is nearer the curve, fit again), from three ways to begin. Nothing is said unless *every* row then lies near the curve, so that runs that
diverged, or a law that does not hold, are not taken for another unit. A law bent by the odd rows until they fit hides them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from scalebound.core.errors import InputError
from scalebound.scaling.laws.protocol import Law
from scalebound.scaling.rows import Rows

STEP = -math.log(math.log(2))  # log of 1/ln 2
SCATTERED = 0.8 * STEP  # rows that spread less are of one unit
NEAR = 0.06  # how near the curve every row must lie after sorting
TURNS = 6


def bits_among_nats(rows: Rows, law: Law, objective, fitted: np.ndarray, *, fix: Mapping[str, float] | None = None) -> np.ndarray:
    """Which rows are in bits, (n,) bool; none when all are of one unit or it cannot be told.

    ``fitted`` (n,) are the values of the law fitted to the rows as they are. Costs up to 18 fits, and those only for rows that scatter.
    """
    from scalebound.scaling.fit import fit_rows

    none = np.zeros(len(rows), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.log(rows.y / fitted)
    if len(rows) < 2 * len(law.parameters) + 2 or not np.isfinite(r).all() or np.ptp(r) < SCATTERED or not law.cheap_refits:
        return none
    for begin in (r > 0, r > STEP / 2, r > -STEP / 2):
        odd = begin
        for _ in range(TURNS):
            as_nats = replace(rows, y=np.where(odd, rows.y * math.log(2), rows.y))
            curve = law.predict(fit_rows(as_nats, law, objective, fix=fix).vector, rows.inputs)
            nearer = np.log(rows.y / curve) > STEP / 2
            if np.array_equal(nearer, odd):
                break
            odd = nearer
        if 2 <= odd.sum() <= len(rows) - 2 and np.max(np.abs(np.log(as_nats.y / curve))) < NEAR:
            return odd
    return none


def check_one_unit(rows: Rows, law: Law, objective, fitted: np.ndarray, *, fix: Mapping[str, float] | None = None) -> None:
    """Raise :class:`~scalebound.core.errors.InputError` for losses in bits among losses in nats, naming the rows."""
    odd = np.flatnonzero(bits_among_nats(rows, law, objective, fitted, fix=fix))
    if len(odd):
        listed = ", ".join(str(int(rows.numbers[k])) for k in odd[:5]) + (", ..." if len(odd) > 5 else "")
        raise InputError(
            f"{len(odd)} of {len(rows)} losses lie 1/ln 2 = 1.443 times above the curve of the others: bits among nats",
            where=f"{rows.source}, rows {listed}",
            expected="nats per token in every row",
            hint=f"multiply losses in bits by ln 2 = 0.6931, or say --target {rows.columns['target']} to fit them as they are",
        )
