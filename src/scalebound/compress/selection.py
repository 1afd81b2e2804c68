"""Which matrix gets which level, when every matrix has a few: exactly for errors that add up, by evolution for whatever does not.

In: ``bits[m, k]``, what matrix m takes at level k, falling in k. The choice minimises a damage while the sum of the bits stays within a budget.

* :func:`additive` minimises ``sum_m errors[m, k_m]`` by dynamic programming over the bits, cut into a few thousand parts.
* :func:`evolve` minimises any function of the whole choice (EvoPress: Sieberling et al., arXiv 2410.14649): a child moves some matrices to the
  next finer level and others to the next coarser until it fits the budget; children compete in stages on samples that grow, the last
  with their parent, and the best goes on. As published, but for two things: there a matrix changes places with one of its own size, here sizes may
  differ, since bits are those of entropy coded integers; and children are 16 where a server tries 64 or 128.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import UsageError

PARTS = 4096
MOST_SWITCHES = 3


def additive(bits: np.ndarray, errors: np.ndarray, budget: float) -> np.ndarray:
    """The choice of least total error within the budget.

    Parameters
    ----------
    bits, errors : (matrices, levels)
    budget : bits

    Returns
    -------
    (matrices,) int, a level for each

    Raises
    ------
    UsageError
        Even the coarsest levels exceed the budget.

    Notes
    -----
    Bits are rounded up to 1/4096 of the budget, so the budget is kept and at most ``matrices / 4096`` of it is left unused by that.

    >>> additive(np.array([[4.0, 1.0], [4.0, 1.0]]), np.array([[0.0, 9.0], [0.0, 1.0]]), 5.1).tolist()
    [0, 1]
    """
    bits = np.asarray(bits, dtype=np.float64)
    _check(bits, budget)
    parts = np.minimum(np.ceil(bits / budget * PARTS - 1e-9), PARTS + 1).astype(int)
    best = np.zeros(PARTS + 1)  # least error of the matrices so far with at most so many parts
    came: list[np.ndarray] = []
    for part, error in zip(parts, errors, strict=True):
        options = np.full((len(part), PARTS + 1), np.inf)
        for k, size in enumerate(part):
            if size <= PARTS:
                options[k, size:] = best[: PARTS + 1 - size] + error[k]
        came.append(np.argmin(options, axis=0))
        best = options.min(axis=0)
    if not np.isfinite(best[-1]):  # rounding up took the last of the budget: the coarsest levels fit all the same
        return np.argmin(bits, axis=1)
    chosen, left = np.zeros(len(bits), dtype=int), PARTS
    for m in range(len(bits) - 1, -1, -1):
        chosen[m] = came[m][left]
        left -= parts[m, chosen[m]]
    return chosen


@dataclass(frozen=True)
class Evolved:
    """The choice, what it costs in the last stage, and how many times a damage was computed."""

    levels: np.ndarray
    damage: float
    evaluations: int


def evolve(bits: np.ndarray, damage: Callable[[np.ndarray, int, int], float], start: np.ndarray, budget: float, rng: np.random.Generator, *,
           generations: int = 40, offspring: int = 16, survivors: Sequence[int] = (4, 1)) -> Evolved:  # fmt: skip
    """Search from a choice that fits the budget.

    Parameters
    ----------
    bits : (matrices, levels)      falling along levels
    damage                         of a choice, in a stage 0 .. len(survivors) (later stages look at more and cost more) of a generation;
                                   the last stage must give the same in every generation
    start : (matrices,) int
    survivors                      how many children go on after each stage; the last of them meets the parent in the last stage

    Raises
    ------
    UsageError
        A start beyond the budget.
    """
    bits = np.asarray(bits, dtype=np.float64)
    _check(bits, budget)
    rows, last = np.arange(len(bits)), len(survivors)
    if bits[rows, start].sum() > budget:
        raise UsageError("the start exceeds the budget", expected=f"at most {budget:,.0f} bits")
    parent, cost, evaluations = np.array(start), damage(np.array(start), last, 0), 1
    for generation in range(generations):
        children = {tuple(child) for child in (_switched(bits, parent, budget, rng) for _ in range(offspring))} - {tuple(parent)}
        alive = [np.array(child) for child in sorted(children)]
        for stage, count in enumerate(survivors):
            costs = [damage(child, stage, generation) for child in alive]
            evaluations += len(alive)
            alive = [alive[k] for k in np.argsort(costs, kind="stable")[:count]]
        for child in alive:
            evaluations += 1
            found = damage(child, last, generation)
            if found < cost:
                parent, cost = child, found
    return Evolved(parent, cost, evaluations)


def _switched(bits: np.ndarray, parent: np.ndarray, budget: float, rng: np.random.Generator) -> np.ndarray:
    """A child: one to three matrices finer (few more often), then others coarser until it fits."""
    child, count = parent.copy(), len(parent)
    finer: set[int] = set()
    for _ in range(min(rng.integers(1, MOST_SWITCHES + 1), rng.integers(1, MOST_SWITCHES + 1))):
        m = int(rng.integers(count))
        if child[m] > 0:
            child[m] -= 1
            finer.add(m)
    rows = np.arange(count)
    while bits[rows, child].sum() > budget:
        free = [m for m in range(count) if m not in finer and child[m] < bits.shape[1] - 1]
        if not free:
            return parent
        child[free[int(rng.integers(len(free)))]] += 1
    return child


def _check(bits: np.ndarray, budget: float) -> None:
    if bits.ndim != 2 or not budget > 0 or bits.min(axis=1).sum() > budget:
        raise UsageError(f"a budget of {budget:,.0f} bits", expected="at least what the coarsest levels take")
