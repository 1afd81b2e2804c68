"""Learning-rate schedules as the curve laws see them: sums of learning rates, and the list of its changes.

Rows give (step, lr) of one or several curves. Between two rows the rate is taken to be a straight line, or, when it changes by more than
a third at once, a jump at the later row. A curve that starts after step 0 is taken to have warmed up linearly from zero to its first row;
that rise counts in S1 and among the changes, but not in S2, which is about annealing (with it, public curves fit and extrapolate worse).

:class:`Changes` lists, for every row t, the changes of rate before it: an interval far back is one change at its middle; the most recent
intervals are cut into pieces, because the response to a change is steep at first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

JUMP = 1.0 / 3.0
PIECES = 8  # of a recent interval
RECENT = 4  # intervals
WARMUP_PIECES = (12, 48)  # seen from afar, and from the rows just after it


@dataclass(frozen=True)
class Changes:
    """One entry per (row, change before it), rows in order; ``first[i]`` is the position of row i's first entry."""

    first: np.ndarray  # (n,)
    empty: np.ndarray  # (n,) bool: a row without any change before it
    drop: np.ndarray  # (pairs,) lr before minus lr after: positive when the rate falls
    log_lr: np.ndarray  # (pairs,) log of the rate after the change
    log_since: np.ndarray  # (pairs,) log of the sum of rates from the change to the row


@dataclass(frozen=True)
class Schedules:
    """What curve laws need of the schedules behind n rows."""

    total: np.ndarray  # (n,) S1: sum of lr over all steps to the row
    momentum: np.ndarray  # (n,) S2 of the annealing law
    changes: Changes


def _knots(step: np.ndarray, lr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps from 0, rates at them, and whether each interval is a jump (a jump keeps the old rate to its end)."""
    if step[0] > 0:
        step, lr = np.concatenate([[0.0], step]), np.concatenate([[0.0], lr])
        warm = True
    else:
        warm = False
    high = np.maximum(lr[1:], lr[:-1])
    jump = np.abs(np.diff(lr)) > JUMP * np.maximum(high, 1e-300)
    if warm:
        jump[0] = False
    return step, lr, jump


def _curve(
    step: np.ndarray, lr: np.ndarray, decay: float
) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """S1 and S2 at the rows of one curve, and per row its (drop, log lr, log since)."""
    at, rate, jump = _knots(step, lr)
    h = np.diff(at)
    area = np.where(jump, h * rate[:-1], 0.5 * h * (rate[:-1] + rate[1:]))
    total = np.concatenate([[0.0], np.cumsum(area)])
    # S2: m decays by `decay` a step and gains the step's drop; within an interval the drop per step is constant
    momentum = np.zeros(len(at))
    m = 0.0
    for k in range(len(h)):
        if h[k] <= 0:
            momentum[k + 1] = momentum[k]
            continue
        keep = decay ** h[k]
        geometric = decay * (1 - keep) / (1 - decay)
        if jump[k]:
            added = m * geometric
            m = m * keep + rate[k] - rate[k + 1]
            added += rate[k] - rate[k + 1]
        else:
            # the warmup before the first row is no annealing
            drop = 0.0 if k == 0 and len(at) > len(step) else (rate[k] - rate[k + 1]) / h[k]
            added = m * geometric + drop * (h[k] - geometric) / (1 - decay)
            m = m * keep + drop * (1 - keep) / (1 - decay)
        momentum[k + 1] = momentum[k] + added
    offset = len(at) - len(step)
    moving = [int(k) for k in np.flatnonzero(rate[1:] != rate[:-1])]
    coarse = [_pieces(at, rate, jump, total, k, WARMUP_PIECES[0] if k == 0 and offset else 1) for k in moving]
    fine = [_pieces(at, rate, jump, total, k, WARMUP_PIECES[1] if k == 0 and offset else PIECES) for k in moving]
    rows = []
    for row in range(len(step)):
        knot = row + offset
        chosen = [fine[j] if knot - k <= RECENT else coarse[j] for j, k in enumerate(moving) if k < knot]
        if not chosen:
            rows.append((np.zeros(0), np.zeros(0), np.zeros(0)))
            continue
        drop, log_lr, where = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
        rows.append((drop, log_lr, np.log(np.maximum(total[knot] - where, 1e-12))))
    return total[offset:], momentum[offset:], rows


def _pieces(
    at: np.ndarray, rate: np.ndarray, jump: np.ndarray, total: np.ndarray, k: int, pieces: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Changes of interval k: drops, log rates after them, and S1 at them."""
    if jump[k]:
        return np.array([rate[k] - rate[k + 1]]), np.log(np.maximum(rate[k + 1 : k + 2], 1e-12)), total[k + 1 : k + 2]
    share = (np.arange(pieces) + 0.5) / pieces
    lr = rate[k] + share * (rate[k + 1] - rate[k])
    where = total[k] + (at[k + 1] - at[k]) * (rate[k] * share + 0.5 * share**2 * (rate[k + 1] - rate[k]))
    return np.full(pieces, (rate[k] - rate[k + 1]) / pieces), np.log(np.maximum(lr, 1e-12)), where


def schedules(inputs: Mapping[str, np.ndarray], decay: float = 0.999) -> Schedules:
    """Sums and changes for rows with columns ``step``, ``lr`` and ``curve`` (a number per curve)."""
    step, lr, curve = (np.asarray(inputs[name], dtype=float) for name in ("step", "lr", "curve"))
    n = len(step)
    total, momentum = np.zeros(n), np.zeros(n)
    listed: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(np.zeros(0), np.zeros(0), np.zeros(0))] * n
    for name in np.unique(curve):
        rows = np.flatnonzero(curve == name)
        rows = rows[np.argsort(step[rows], kind="stable")]
        total[rows], momentum[rows], of_rows = _curve(step[rows], lr[rows], decay)
        for row, entry in zip(rows, of_rows, strict=True):
            listed[row] = entry
    counts = np.array([len(entry[0]) for entry in listed])
    # reduceat needs an entry for every row: a change of size zero stands for none
    padded = [entry if len(entry[0]) else (np.zeros(1), np.zeros(1), np.zeros(1)) for entry in listed]
    first = np.concatenate([[0], np.cumsum(np.maximum(counts, 1))[:-1]])
    drop, log_lr, log_since = (np.concatenate([entry[j] for entry in padded]) for j in range(3))
    return Schedules(total, momentum, Changes(first, counts == 0, drop, log_lr, log_since))
