"""Would another analyst have found the same law? Refits under other choices, and without each row.

* other widths of Huber's penalty, squares, the outliers cut, the smallest runs left out;
* every row left out in turn (all refits in one batch): which single run decides the answer.

A parameter is *sensitive* to a choice when it leaves its own interval under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import ScaleboundError
from scalebound.scaling.bootstrap import refit
from scalebound.scaling.laws.protocol import Law
from scalebound.scaling.objective import Objective
from scalebound.scaling.optimum import find
from scalebound.scaling.rows import Rows

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Refit:
    """The parameters under one other choice, and which of them left their interval."""

    choice: str
    n: int
    params: dict[str, float]
    objective: float
    moved: tuple[str, ...]


@dataclass(frozen=True)
class Influence:
    """What leaving out one row does."""

    row: int  # number in the source
    shift: float  # largest change of a parameter, in units of its standard deviation over all leave-one-out refits times sqrt(n)
    parameter: str
    params: dict[str, float]


def size_order(rows: Rows) -> np.ndarray:
    """Positions of the rows from the smallest run to the largest: by compute where it is known, else by the first input."""
    inputs = rows.inputs
    if "params" in inputs and "tokens" in inputs:
        size = inputs["params"] * inputs["tokens"]
    else:
        size = next(iter(inputs.values()))
    return np.argsort(size, kind="stable")


def refits(rows: Rows, law: Law, objective: Objective, intervals: Mapping[str, Interval], residuals: np.ndarray) -> list[Refit]:
    """The law fitted under other choices of penalty, outlier cut and smallest run.

    Choices that leave too few rows are left out.
    """
    out = []
    plans: list[tuple[str, Rows, Objective]] = []
    for delta in (1e-4, 1e-3, 1e-2):
        if not (objective.kind == "huber" and objective.delta == delta):
            plans.append((f"huber, delta {delta:g}", rows, Objective("huber", delta, law.residual)))
    if objective.kind != "squares":
        plans.append(("squares", rows, Objective("squares", residual="plain")))
    spread = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))
    for cut in (3.0, 5.0):
        keep = np.abs(residuals - np.median(residuals)) <= cut * spread
        if spread > 0 and not keep.all():
            plans.append((f"without {int((~keep).sum())} rows beyond {cut:g} spreads", rows.take(keep), objective))
    order = size_order(rows)
    for share in (0.1, 0.25, 0.5):
        drop = int(len(rows) * share)
        if drop:
            plans.append((f"without the smallest {share:.0%}", rows.take(np.sort(order[drop:])), objective))
    for choice, kept, how in plans:
        if len(kept) <= len(law.parameters):
            continue
        try:
            best = find(law.bind(kept.inputs), kept.y, kept.weights, how, most=6)
        except ScaleboundError:
            continue
        params = dict(zip(law.names, map(float, law.natural(best.theta)), strict=True))
        moved = tuple(name for name, pair in intervals.items() if pair is not None and not pair[0] <= params[name] <= pair[1])
        out.append(Refit(choice, len(kept), params, best.value, moved))
    return out


def influence(
    rows: Rows, law: Law, objective: Objective, theta: np.ndarray, *, held: np.ndarray | None = None, most: int = 5, largest_n: int = 2000
) -> list[Influence]:
    """The rows whose absence changes the law most.

    O(n) refits in one batch; for more than ``largest_n`` rows only the largest runs are tried.
    """
    bound = law.bind(rows.inputs)
    order = size_order(rows)[::-1][:largest_n]
    weights = np.repeat(rows.weights[None], len(order), axis=0)
    weights[np.arange(len(order)), order] = 0.0
    moved, _ = refit(bound, theta[None], rows.y, weights, objective, held=held)
    shift = moved - theta
    unit = np.sqrt((shift**2).sum(axis=0)) + 1e-300  # the jackknife's standard error
    relative = np.abs(shift) / unit
    worst = relative.max(axis=1)
    out = []
    for k in np.argsort(-worst)[:most]:
        column = int(np.argmax(relative[k]))
        out.append(
            Influence(
                int(rows.numbers[order[k]]),
                float(worst[k]),
                law.names[column],
                dict(zip(law.names, map(float, law.natural(moved[k])), strict=True)),
            )
        )
    return out
