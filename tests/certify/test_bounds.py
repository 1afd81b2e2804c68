"""Facts about the bounds themselves: their order, their ends, their arguments, and the fast sums against a loop."""

import math

import mpmath
import numpy as np
import pytest

from scalebound.certify import (
    LogSums,
    default_grid,
    freedman_bound,
    mixture_bound,
    paper_grid,
    peaked_grid,
    product_bound,
    product_lower_bound,
)
from scalebound.certify.logsums import GROUP, log_products, spread
from scalebound.core.errors import InputError, UsageError

BOUNDS = [product_bound, mixture_bound, freedman_bound]


def losses(n: int, seed: int = 0, top: float = 8.0) -> np.ndarray:
    return np.minimum(np.random.default_rng(seed).gamma(2.0, 1.0, n), top)


def loop(x, y, range_, grid):
    """``sum log(1 + s A)`` as it is written in the theorem."""
    return np.array([math.fsum(math.log1p(s * (b - a) / range_) for a, b in zip(x, y, strict=True)) for s in grid])


@pytest.mark.parametrize("n", [1, 15, 16, 17, 1000, 66_001])
def test_fast_sums_equal_the_loop(n):
    x, y, grid = losses(n), np.random.default_rng(1).uniform(0, 3, n), default_grid()[::4]
    sums = LogSums(grid, [8.0, 8.0])
    sums.add(x, [y, 0.0])
    assert np.allclose(sums.log_sums[0], loop(x, y, 8.0, grid), rtol=1e-12, atol=1e-15 * n)
    assert np.allclose(sums.log_sums[1], loop(x, np.zeros(n), 8.0, grid), rtol=1e-12, atol=1e-15 * n)
    assert np.all(sums.safe_log_sums()[0] <= loop(x, y, 8.0, grid))
    assert sums.sum_squares[0] == pytest.approx(float(((x - y) ** 2).sum()), rel=1e-13)


def test_factors_at_the_ceiling_and_far_above_one_neither_cancel_nor_overflow():
    grid = np.array([1e-6, 0.5, 0.99, 1 - 1e-12])
    for value in (0.0, 1e-13, 1.0, 30.0, 1e12, 1e40):
        found = log_products(np.full((GROUP, 2), value), grid)
        exact = [float(GROUP * mpmath.log((1 - mpmath.mpf(float(s))) + mpmath.mpf(float(s)) * mpmath.mpf(value))) for s in grid]
        assert np.allclose(found[:, 0], exact, rtol=1e-13, atol=1e-14), value


def test_shards_add_up_and_scaling_keeps_means():
    x, grid = losses(5000), default_grid()
    whole, first, second = (LogSums(grid, [8.0]) for _ in range(3))
    whole.add(x, [0.5])
    first.add(x[:1234], [0.5])
    second.add(x[1234:], [0.5])
    merged = first.merge(second)
    assert merged.n == whole.n and np.allclose(merged.log_sums, whole.log_sums, rtol=1e-13)
    assert whole.scaled(123).mean_x == pytest.approx(whole.mean_x)
    with pytest.raises(UsageError):
        merged.merge(LogSums(grid, [9.0]))


def test_the_root_against_fifty_digits():
    x, y, grid, bits, delta = losses(300), np.random.default_rng(2).uniform(0, 3, 300), [0.05, 0.5, 0.9], 40.0, 0.02
    found = product_bound(x, y, range_=8.0, code_bits=bits, delta=delta, grid=grid)
    with mpmath.workdps(50):
        xs, ys, big = [mpmath.mpf(float(v)) for v in x], [mpmath.mpf(float(v)) for v in y], mpmath.mpf(8)
        sums = [mpmath.fsum(mpmath.log(1 + mpmath.mpf(s) * (b - a) / big) for a, b in zip(xs, ys, strict=True)) for s in grid]
        mean_y = mpmath.fsum(ys) / 300

        def excess(m):
            parts = [
                mpmath.exp(total - 300 * mpmath.log(1 - mpmath.mpf(s) / big * (m - mean_y))) / 3
                for s, total in zip(grid, sums, strict=True)
            ]
            return mpmath.log(mpmath.fsum(parts)) - mpmath.log(1 / mpmath.mpf(delta)) - mpmath.mpf(bits) * mpmath.log(2)

        root = mpmath.findroot(excess, (found.value * 0.99, found.value * 1.01), solver="anderson")
        assert abs(found.value / root - 1) < 1e-12 and found.value >= root


@pytest.mark.parametrize("bits", [0, 50, 500, 1e5])
@pytest.mark.parametrize("seed", range(5))
def test_product_is_below_mixture_is_below_grid(bits, seed):
    x, grid = losses(2000, seed), paper_grid(40)
    y = np.random.default_rng(seed).uniform(0, 2, 2000)
    values = [bound(x, y, range_=8.0, code_bits=bits, delta=0.01, grid=grid).value for bound in BOUNDS]
    assert values[0] <= values[1] <= values[2]
    assert x.mean() <= values[0] <= y.mean() + 8.0


@pytest.mark.parametrize("bound", BOUNDS)
def test_ends(bound):
    assert bound(np.zeros(10), 0.0, range_=1.0, code_bits=1e9, delta=0.01).value == 1.0  # the trivial bound, not an explosion
    assert bound(np.zeros(10), 0.0, range_=1.0, code_bits=1e9, delta=0.01).at_ceiling
    at_top = bound(np.full(50, 3.0), 0.0, range_=3.0, code_bits=0, delta=0.5)
    assert at_top.value == 3.0 and at_top.complexity + at_top.variance + at_top.mean == pytest.approx(3.0, rel=1e-14)
    for n in (1, 2):
        assert 0 < bound(np.ones(n), 0.0, range_=4.0, code_bits=0, delta=0.3).value <= 4.0


def test_a_centre_that_equals_the_loss_leaves_complexity_only():
    x = losses(10_000)
    found = product_bound(x, x, range_=8.0, code_bits=100, delta=0.01)
    assert found.variance == pytest.approx(0, abs=1e-9) and found.s == 0.99


def test_several_centres_share_one_confidence():
    x, own = losses(20_000), losses(20_000) * 0.9
    alone = product_bound(x, own, range_=8.0, code_bits=3000, delta=0.01).value
    zero = product_bound(x, 0.0, range_=8.0, code_bits=3000, delta=0.01).value
    both = product_bound(x, [0.0, own], range_=8.0, code_bits=3000, delta=0.01).value
    assert alone < both < zero
    # the price of not knowing which: one bit
    assert both <= product_bound(x, own, range_=8.0, code_bits=3001, delta=0.01).value
    assert product_bound(x, np.stack([np.zeros(20_000), own]), range_=[8.0, 8.0], code_bits=3000, delta=0.01).value == both


def test_a_constant_centre_only_renames_s():
    # (1 + s (y - x)/(D - y)) with every s mapped to the same lambda gives the same martingale up to a constant factor
    x, y, top = losses(3000), 1.5, 8.0
    rate = 0.08
    shifted = product_bound(x, y, range_=top - 0.0, code_bits=10, delta=0.1, grid=[rate * top]).value
    plain = product_bound(x, 0.0, range_=top, code_bits=10, delta=0.1, grid=[rate / (1 + rate * y) * top]).value
    assert shifted == pytest.approx(plain, rel=1e-11)


def test_lower_bound_needs_no_limit_on_the_loss():
    # heavy tail: mean of the distribution 1.5, one loss of a million; the upper bound does not exist, the lower one holds
    x = np.random.default_rng(0).pareto(3.0, 50_000) * 3.0
    mean = x.mean()
    assert 1.4 < product_lower_bound(x, 0.0, range_=8.0, code_bits=0, delta=0.05).value < 1.5 < mean + 0.05
    x[0] = 1e6
    assert product_lower_bound(x, 0.0, range_=8.0, code_bits=0, delta=0.05).value < x.mean()
    with pytest.raises(InputError):
        product_bound(x, 0.0, range_=8.0, code_bits=0, delta=0.05)


@pytest.mark.parametrize("bound", BOUNDS)
def test_bad_arguments_are_named(bound):
    x = losses(100)
    good = {"range_": 8.0, "code_bits": 0, "delta": 0.1}
    for change in (
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": math.nan},
        {"code_bits": -1},
        {"code_bits": math.nan},
        {"range_": 0.0},
        {"range_": math.inf},
        {"grid": [0.0]},
        {"grid": [1.0]},
        {"grid": []},
        {"weights": [1.0]},
        {"weights": [0.0] * 32},
        {"range_": [1.0, 2.0]},
    ):
        if bound is freedman_bound and "weights" in change:
            change = {"weights": [1.0, -1.0], "grid": [0.1, 0.2]}
        with pytest.raises(UsageError):
            bound(x, 0.0, **{**good, **change})
    x[17] = np.nan
    with pytest.raises(InputError, match="token 17 "):
        bound(x, 0.0, **good)
    x[17], x[42] = 1.0, 8.5
    with pytest.raises(InputError, match="token 42 "):
        bound(x, 0.0, **good)
    with pytest.raises(InputError):
        bound(np.empty(0), 0.0, **good)
    with pytest.raises(InputError):
        bound(losses(10), np.zeros(9), **good)


def test_the_index_is_right_beyond_the_first_chunk():
    x = losses(200_000)
    x[150_003] = np.inf
    with pytest.raises(InputError, match="token 150003 "):
        product_bound(x, 0.0, range_=8.0, code_bits=0, delta=0.1)


def test_grids():
    grid = default_grid(10**8)
    assert grid[0] == 0.5e-4 and grid[-1] == 0.99 and np.all(np.diff(grid) > 0) and len(grid) == 32
    s, w = peaked_grid(range_=10.0, sigma=None, horizon=10**4, delta=0.025)
    assert np.all((s > 0) & (s <= 0.99)) and abs(w.sum() - 1) < 1e-12
    for wrong in ({"range_": 0.0}, {"sigma": -1.0}, {"delta": 1.0}, {"horizon": 0}):
        with pytest.raises(UsageError):
            peaked_grid(**{"range_": 1.0, "sigma": 1.0, "horizon": 100, "delta": 0.1, **wrong})
    with pytest.raises(UsageError):
        default_grid(0)
    assert sum(stop - start for start, stop in spread(10**6, 64, 1024)) == 65536
