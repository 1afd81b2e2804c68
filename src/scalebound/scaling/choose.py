"""``--law auto``: candidates compared on your own larger runs, never by how well they fit what they were fitted to.

Every candidate is fitted to the runs below the same limits and predicts the same runs above them. The mean absolute relative error above
the larger half of the limits decides: what a law makes of very few small runs says little of how it extrapolates from all of them. A law
with more parameters must beat a simpler one by a third of the standard error of their paired difference, or the simpler one is taken.
Both choices were made by choosing below a limit and scoring above it, on 23 public tables (benchmarks/LOG.md).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError
from scalebound.scaling.backtest import choose_limits
from scalebound.scaling.fit import fit_rows, objective_for
from scalebound.scaling.forecast import forecast_inputs
from scalebound.scaling.laws import get_law
from scalebound.scaling.laws.protocol import Law
from scalebound.scaling.objective import Objective
from scalebound.scaling.rows import Rows, find_column, prepare, sizes
from scalebound.scaling.table import Table, as_table

DECISIVE = 1.0 / 3.0  # standard errors by which more parameters must pay


@dataclass(frozen=True)
class Candidate:
    """One law in a comparison; ``error`` is the mean absolute relative error of extrapolation from the larger half of the limits."""

    law: str
    parameters: int
    error: float
    worst: float
    coverage: float | None


@dataclass(frozen=True)
class Choice:
    """The laws compared, best first, and the one to use with the reason in a sentence."""

    law: str
    candidates: tuple[Candidate, ...]
    reason: str
    predictions: int


def candidates(table: Table, target: str | None = None) -> list[Law]:
    """The laws that the columns of a table allow."""

    def has(name: str) -> bool:
        try:
            values = find_column(table, name, {})
        except InputError:
            return False
        known = values[np.isfinite(values)]
        return len(np.unique(known)) > 1 and bool(np.all(known > 0))

    explains_loss = target is None or "loss" in target or "bpb" in target
    out: list[str] = []
    if explains_loss:
        if has("params") and has("tokens"):
            out += ["power:flops", "overtraining", "kaplan", "chinchilla"]
            if has("unique_tokens"):
                out.append("repetition")
        else:
            out += [f"power:{name}" for name in ("params", "tokens", "flops") if has(name)][:1]
    elif has("loss"):
        out += ["exponential-error:loss", "sigmoid:loss"]
    if not out:
        raise InputError(
            "no law suits the columns", where=table.source, expected="params and tokens, one of them, or loss", hint="name a law with --law"
        )
    return [get_law(name) for name in out]


def choose(
    table: Table | str | os.PathLike | Mapping[str, object],
    laws: Sequence[str | Law] | None = None,
    *,
    target: str | None = None,
    objective: Objective | str | None = None,
    delta: float = 1e-3,
    group: str | None = None,
    weights: str | None = None,
    folds: int = 4,
    bootstrap: int = 200,
    level: float = 0.95,
    seed: int = 0,
    drop_bad: bool = False,
) -> Choice:
    """Compare laws by backtest on the same runs.

    Raises :class:`~scalebound.core.errors.InputError` when no candidate has enough rows below any limit.
    """
    data = as_table(table)
    tried = [get_law(law, data.columns) for law in laws] if laws is not None else candidates(data, target)
    prepared: dict[str, Rows] = {}
    for law in tried:
        try:
            prepared[_label(law)] = prepare(data, law, target=target, group=group, weights=weights, drop_bad=drop_bad)
        except InputError:
            if laws is not None or law is tried[0]:
                raise
    tried = [law for law in tried if _label(law) in prepared]
    richest = max(tried, key=lambda law: len(law.parameters))
    # runs are ordered by what the richest law can see of their size, for all laws alike
    rows = prepared[_label(richest)]
    size, _ = sizes(rows.inputs)
    limits = choose_limits(size, rows, richest, folds, None)
    errors: dict[str, np.ndarray] = {}
    found = []
    for law in tried:
        mine = prepared[_label(law)]
        how = objective_for(law, objective, delta)
        seen, inside, known = [], 0, 0
        for cut in limits:
            below = size <= cut
            fitted = fit_rows(mine.take(below), law, how, bootstrap=bootstrap, level=level, seed=seed)
            above = mine.take(~below)
            ahead = forecast_inputs(fitted, law, above.inputs, seed=seed)
            seen.append(np.abs(ahead.value - above.y) / np.abs(above.y))
            if ahead.low is not None and ahead.high is not None:
                inside += int(np.sum((ahead.low <= above.y) & (above.y <= ahead.high)))
                known += len(above)
        errors[_label(law)] = np.concatenate(seen[len(seen) // 2 :])
        found.append(
            Candidate(
                _label(law),
                len(law.parameters),
                float(errors[_label(law)].mean()),
                float(errors[_label(law)].max()),
                inside / known if known else None,
            )
        )
    found.sort(key=lambda one: one.error)
    best = found[0]
    reason = f"{best.law} predicts the larger runs best ({best.error:.2%} mean error)"
    for simpler in sorted((one for one in found[1:] if one.parameters < best.parameters), key=lambda one: one.parameters):
        gap = errors[simpler.law] - errors[best.law]
        if gap.mean() < DECISIVE * gap.std() / math.sqrt(len(gap)):
            reason = (
                f"{simpler.law} ({simpler.parameters} parameters, {simpler.error:.2%}) is within noise of {best.law} "
                f"({best.parameters} parameters, {best.error:.2%}): simple beats complex here"
            )
            best = simpler
            break
    return Choice(best.law, tuple(found), reason, len(next(iter(errors.values()))))


def _label(law: Law) -> str:
    return f"{law.name}:{law.inputs[0]}" if law.name in ("power", "exponential-error", "sigmoid") else law.name
