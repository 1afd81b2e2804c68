"""Levels under a budget: dynamic programming against all choices, evolution against it where errors add up, and beyond it where they do not."""

import itertools

import numpy as np
import pytest

from scalebound.compress.selection import additive, evolve
from scalebound.core.errors import UsageError


def problem(matrices, levels, seed):
    """Matrices of different sizes and importance; an error grows about fourfold where a bit a weight is saved."""
    rng = np.random.default_rng(seed)
    size, weight = rng.uniform(1, 4, matrices), np.exp(2 * rng.normal(size=matrices))
    bits = size[:, None] * (np.arange(levels, 0, -1) + rng.uniform(-0.2, 0.2, (matrices, levels)))
    errors = weight[:, None] * 4.0 ** (np.arange(levels) + rng.uniform(-0.2, 0.2, (matrices, levels)))
    return bits, errors, float(bits[:, levels // 2].sum())


@pytest.mark.parametrize("seed", range(8))
def test_additive_against_all_choices(seed):
    bits, errors, budget = problem(6, 4, seed)
    rows = np.arange(6)
    fitting = [choice for choice in itertools.product(range(4), repeat=6) if bits[rows, choice].sum() <= budget]
    best = min(errors[rows, choice].sum() for choice in fitting)
    found = additive(bits, errors, budget)
    assert bits[rows, found].sum() <= budget and errors[rows, found].sum() <= 1.02 * best
    greedy = np.argmin(errors, axis=1)
    assert bits[rows, greedy].sum() > budget, "control: the budget binds"


def test_evolution_finds_the_additive_optimum_and_keeps_the_budget():
    bits, errors, budget = problem(12, 5, 0)
    rows = np.arange(12)
    seen = []

    def damage(levels, stage, generation):
        seen.append(bits[rows, levels].sum())
        return float(errors[rows, levels].sum())

    start = np.full(12, 4)
    found = evolve(bits, damage, start, budget, np.random.default_rng(0), generations=150)
    best = errors[rows, additive(bits, errors, budget)].sum()
    assert max(seen) <= budget and found.evaluations == len(seen) and found.damage == errors[rows, found.levels].sum()
    assert found.damage <= 1.1 * best < 0.5 * errors[rows, start].sum()


def test_evolution_sees_what_does_not_add_up():
    """Two matrices that must be fine together: apart, neither pays."""
    bits = np.tile([4.0, 2.0], (6, 1))

    def damage(levels, stage=0, generation=0):
        return 1.0 - 0.9 * (levels[0] == 0 and levels[1] == 0) - 0.05 * np.sum(levels[2:] == 0)

    errors = np.array([[damage(np.where(np.arange(6) == m, k, 1)) for k in range(2)] for m in range(6)])
    budget = 16.0  # two of the six may be fine
    alone = damage(additive(bits, errors, budget))
    found = evolve(bits, damage, np.ones(6, dtype=int), budget, np.random.default_rng(1))
    assert found.damage == pytest.approx(0.1) and alone >= 0.9


def test_a_noisy_first_stage_is_corrected_by_the_last():
    bits, errors, budget = problem(8, 4, 3)
    rows, rng = np.arange(8), np.random.default_rng(0)

    def damage(levels, stage, generation):
        return float(errors[rows, levels].sum()) + (rng.normal() * 2 if stage == 0 else 0.0)

    start = np.full(8, 3)
    found = evolve(bits, damage, start, budget, np.random.default_rng(0), generations=60)
    assert found.damage == errors[rows, found.levels].sum() < errors[rows, start].sum(), "what goes on was judged without noise"


def test_budgets_that_cannot_be_met():
    bits, errors, _ = problem(3, 3, 0)
    with pytest.raises(UsageError, match="budget"):
        additive(bits, errors, 0.1)
    with pytest.raises(UsageError, match="start exceeds"):
        evolve(bits, lambda levels, stage: 0.0, np.zeros(3, dtype=int), float(bits.min(axis=1).sum()) + 1e-6, np.random.default_rng(0))
    exact = float(bits.min(axis=1).sum())
    assert additive(bits, errors, exact).tolist() == [2, 2, 2], "just the coarsest"
