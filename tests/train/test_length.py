"""The level of the next matrix: curves and their inverses, one pass that meets the length although expectations are off, a second that knows the file."""

import json

import numpy as np
import pytest

from scalebound.train.length import FARTHEST, Budget, length_at, level_at

LEVELS = [0.5, 1.0, 2.0]


def test_curves_and_their_inverses():
    lengths = [3.0, 2.0, 1.2]
    levels = np.geomspace(0.1, 4, 41)
    found = [length_at(LEVELS, lengths, level) for level in levels]
    assert np.all(np.diff(found) < 0) and length_at(LEVELS, lengths, 1.0) == 2.0
    assert np.allclose([level_at(LEVELS, lengths, length) for length in found], levels)
    assert length_at(LEVELS, lengths, 1e6) == 0.01, "beyond the end no fewer than nothing"


def test_a_flat_curve_is_not_believed():
    assert 2.0 < level_at(LEVELS, [0.02, 0.02, 0.02], 0.01) < 3.0


def matrices(count=60, bias=1.06, seed=0):
    """A pilot that finds every matrix about 6% too short, and each of them off by some percent more."""
    rng = np.random.default_rng(seed)
    sizes = {f"w{k}": int(size) for k, size in enumerate(rng.integers(1_000, 50_000, count))}
    expected = {name: [size * (bits - np.log2(level)) for level in LEVELS] for (name, size), bits in zip(sizes.items(), rng.uniform(2.5, 4.0, count), strict=True)}
    truth = {name: bias * (1 + 0.02 * rng.normal()) for name in sizes}
    return Budget(LEVELS, expected, sizes, rest=5_000.0, ratio=1.0), truth


def run(budget, truth, wanted, name_of_last=None):
    for name in list(budget.expected):
        level = budget.next_level(wanted)
        budget.spend(name, level, truth[name] * length_at(LEVELS, np.array(budget.expected[name]) / budget.sizes[name], level) * budget.sizes[name])
        if name == name_of_last:
            break
    return budget.rest + sum(bits for _, bits, _ in budget.spent.values())


def test_one_pass_meets_the_length():
    budget, truth = matrices()
    wanted = 3.0 * sum(budget.sizes.values())
    found = run(budget, truth, wanted)
    assert abs(found / wanted - 1) < 0.001
    levels = np.array([level for level, _, _ in budget.spent.values()])
    assert np.ptp(np.log2(levels)) < 0.5 and np.all(levels <= budget.start * FARTHEST) and np.all(levels >= budget.start / FARTHEST)
    uncorrected = budget.rest + sum(truth[name] * length_at(LEVELS, np.array(budget.expected[name]) / size, budget.start) * size for name, size in budget.sizes.items())
    assert abs(uncorrected / wanted - 1) > 0.04, "control: at the first level throughout the file would be 6% longer"


def test_the_second_pass_knows_the_file():
    budget, truth = matrices()
    wanted = 3.0 * sum(budget.sizes.values())
    first = run(budget, truth, wanted)
    assert budget.finish(1.03 * first) == pytest.approx(budget.levels[1], rel=1.0) and budget.spent == {} and budget.start == 0.0
    truth = dict.fromkeys(truth, 1.0)  # the next pass expects what this one found
    assert 1.03 * run(budget, truth, wanted) == pytest.approx(wanted, rel=1e-3)
    assert max(level for level, _, _ in budget.spent.values()) < 1.02 * budget.start, "expectations hold, so the level stays"


def test_an_interrupted_pass_goes_on_from_json():
    whole, truth = matrices()
    wanted = 3.0 * sum(whole.sizes.values())
    run(whole, truth, wanted)
    part, _ = matrices()
    run(part, truth, wanted, "w20")
    again = Budget(**json.loads(json.dumps(vars(part))))
    for name in list(again.expected)[21:]:
        level = again.next_level(wanted)
        again.spend(name, level, truth[name] * length_at(LEVELS, np.array(again.expected[name]) / again.sizes[name], level) * again.sizes[name])
    assert [tuple(entry) for entry in again.spent.values()] == list(whole.spent.values())
