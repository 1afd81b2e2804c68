"""Rounding with second moments: the factor, the recursion against a readable one, optimality on what can be enumerated, prices, masks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalebound.compress import QuantizedModel, decode, encode
from scalebound.compress.allocation import no_finer, relative_steps, water_filling
from scalebound.compress.gptq import EXCHANGE, _choose, _downward, factor, gptq
from scalebound.compress.model import bfloat16
from scalebound.compress.rates import LONGEST, Rates, classes_of, estimated_bits
from scalebound.core.errors import InputError, UsageError

ONE = 0x3F80  # the pattern of 1.0


def moments(cols, tokens=None, seed=0, decay=1.0):
    """Second moments of correlated inputs whose variances fall."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(cols, cols)) * np.arange(1, cols + 1) ** -decay
    x = rng.normal(size=(tokens or 4 * cols, cols)) @ mix.T
    return x.T @ x / len(x)


def damage(weight, coded, hessian):
    error = weight - coded.dequantized()
    return float(np.einsum("ij,jk,ik->", error, hessian, error))


def same_step(step, rows, cols):
    return np.full(rows, ONE), np.full(cols, int(np.float32(step).view(np.uint32) >> 16))


@pytest.mark.parametrize("cols", [1, 2, 7, 40])
def test_the_factor_gives_the_matrix_back(cols):
    hessian = moments(cols)
    made = factor(hessian, 0.01)
    damped = hessian + 0.01 * np.diagonal(hessian).mean() * np.eye(cols)
    assert np.allclose((made.unit_upper * made.diagonal) @ made.unit_upper.T, damped[np.ix_(made.order, made.order)], rtol=1e-5)
    assert np.allclose(np.diagonal(made.unit_upper), 1) and not np.tril(made.unit_upper, -1).any()
    assert np.all(np.diff(np.diagonal(hessian)[made.order]) <= 0), "columns with more energy first"


@pytest.mark.parametrize("bad", [np.ones((2, 3)), np.array([[1.0, np.nan], [np.nan, 1.0]]), -np.eye(3), np.array([[1.0, 5.0], [5.0, 1.0]])])
def test_what_is_no_second_moment_is_refused(bad):
    with pytest.raises(InputError):
        factor(bad)


def test_zero_inputs_leave_plain_rounding():
    weight = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    coded = gptq(weight, factor(np.zeros((6, 6))), same_step(0.25, 5, 6))
    assert np.array_equal(coded.integers, np.rint(weight / 0.25))


def readable(weight, hessian, made, step):
    """One column after another; the errors so far say what the next column should be: argmin over real values, by least squares."""
    cols = weight.shape[1]
    turned = hessian[np.ix_(made.order, made.order)]
    left = weight[:, made.order].astype(np.float64)
    error = np.zeros_like(left)
    for j in range(cols):
        # what column j would ideally be, given errors before it, when all later columns are free: minimize over e_j and e_later
        later = slice(j, cols)
        ideal = -np.linalg.solve(turned[later, later], turned[later, :j] @ error[:, :j].T)[0] if j else np.zeros(len(left))
        rounded = step * np.rint((left[:, j] - ideal) / step)
        error[:, j] = left[:, j] - rounded
    out = np.empty_like(left)
    out[:, made.order] = np.rint((left - error) / step)
    return out


@pytest.mark.parametrize("cols", [3, 20, 150])
def test_the_recursion_is_that_of_the_conditional_minimum(cols):
    weight = np.random.default_rng(1).normal(size=(11, cols)).astype(np.float32)
    hessian = moments(cols)
    made = factor(hessian, 0.0)
    coded = gptq(weight, made, same_step(0.5, 11, cols))
    assert np.mean(coded.integers != readable(weight, hessian, made, 0.5)) < 0.005, "float32 against float64 may differ at a tie, no more"
    # control: in the columns' own order the integers are others
    assert np.mean(coded.integers != np.rint(weight / 0.5)) > 0.05


def test_errors_are_the_diagonal_times_the_residuals():
    """sum_j D_j r_j^2 with |r_j| <= step / 2: the damage cannot exceed the bound, and plain rounding does."""
    weight = np.random.default_rng(2).normal(size=(200, 48)).astype(np.float32)
    hessian = moments(48, decay=1.5)
    made = factor(hessian, 0.0)
    coded = gptq(weight, made, same_step(0.5, 200, 48))
    found, bound = damage(weight, coded, hessian) / 200, float(made.diagonal.sum()) * 0.25**2
    plain = gptq(weight, factor(np.eye(48), 0.0), same_step(0.5, 200, 48))
    assert found <= bound * 1.001 and abs(found / bound - 1 / 3) < 0.05, "uniform residuals: a third of the bound"
    assert damage(weight, plain, hessian) / 200 > 1.5 * found


def test_close_to_the_best_of_all_roundings():
    rng = np.random.default_rng(3)
    better = []
    for seed in range(20):
        weight = rng.normal(size=(1, 5)).astype(np.float32)
        hessian = moments(5, seed=seed)
        steps = same_step(1.0, 1, 5)
        every = [damage_of(weight, hessian, np.floor(weight[0]) + np.array(up)) for up in itertools.product((0, 1), repeat=5)]
        ours, plain = damage(weight, gptq(weight, factor(hessian, 0.0), steps), hessian), damage_of(weight, hessian, np.rint(weight[0]))
        better.append((min(every) / ours, min(every) / plain))
    assert np.mean([a for a, _ in better]) > 1.3 * np.mean([b for _, b in better])


def damage_of(weight, hessian, integers):
    error = weight[0] - integers
    return float(error @ hessian @ error)


def test_water_filling_spends_bits_where_they_count():
    """At equal estimated bits, steps from the diagonal do less damage than one step for all columns, weighted rows included."""
    rng = np.random.default_rng(4)
    weight, hessian, rows = rng.normal(size=(300, 60)).astype(np.float32), moments(60, decay=1.5), np.exp(rng.normal(size=300))
    made = factor(hessian, 0.0)

    def cost(coded):
        error = weight - coded.dequantized()
        return float(np.einsum("i,ij,jk,ik->", rows, error, hessian, error))

    filled = gptq(weight, made, water_filling(0.6 * np.sqrt(made.diagonal.mean() * rows.mean()), rows, made.column_diagonal))
    bits = estimated_bits(filled.integers)
    uniform = [gptq(weight, made, same_step(step, 300, 60)) for step in np.geomspace(0.02, 4, 60)]
    nearest = min(uniform, key=lambda coded: abs(estimated_bits(coded.integers) - bits))
    assert abs(estimated_bits(nearest.integers) / bits - 1) < 0.05 and cost(filled) < 0.7 * cost(nearest)


def test_steps_of_water_filling():
    diagonal, rows = np.array([1.0, 100.0, 0.01]), np.array([1.0, 16.0])
    row, col = water_filling(0.5, rows, diagonal)
    steps = bfloat16(row)[:, None] * bfloat16(col)
    assert np.all(np.abs(np.log2(steps * np.sqrt(rows[:, None] * diagonal) / 0.5)) <= 0.26 + 0.01), "within the two grids of a quarter of an octave"
    assert np.all(row % 32 == 0) and np.all(col % 32 == 0)
    assert np.all(water_filling(0.5, np.zeros(3), diagonal)[0] > 0), "rows nobody asks for have a step all the same"


def test_an_input_that_dwarfs_the_others_does_not_blow_up_the_integers():
    """A second moment 1e12 times the rest asks for steps a million times finer; the column gets 1,024 levels on each side."""
    rng = np.random.default_rng(9)
    weight, hessian = rng.normal(size=(50, 20)).astype(np.float32), moments(20)
    hessian[3, 3] += 1e12 * hessian.max()
    made = factor(hessian, 1e-14)
    steps = water_filling(float(np.sqrt(np.median(made.diagonal))), np.ones(50), made.column_diagonal)
    with pytest.raises(UsageError, match="integers up to"):
        gptq(weight, made, steps)
    held = no_finer(steps, weight)
    others = np.arange(20) != 3
    assert np.array_equal(held[1][others], steps[1][others]) and held[1][3] > steps[1][3]
    assert 400 < np.abs(gptq(weight, made, held).integers[:, 3]).max() <= 1100


def test_relative_steps_are_those_of_plain_rounding():
    weight = np.random.default_rng(5).normal(size=(4, 64)).astype(np.float32) * 2.0 ** np.arange(4)[:, None]
    rows, cols = relative_steps(0.5, weight, 8)
    assert np.all(bfloat16(cols) == 1) and np.allclose(bfloat16(rows), 0.5 * np.sqrt(np.mean(weight**2, axis=1)), rtol=1 / 32)


def test_a_price_shortens_and_is_worth_it():
    rng = np.random.default_rng(6)
    weight, hessian = rng.normal(size=(400, 80)).astype(np.float32), moments(80, decay=0.7)
    made = factor(hessian, 0.0)
    level = float(np.sqrt(np.exp(np.log(made.diagonal).mean())))  # about one bit and a half

    def at(scale, penalty):
        coded = gptq(weight, made, water_filling(scale * level, np.ones(400), made.column_diagonal), penalty=penalty)
        return estimated_bits(coded.integers) / weight.size, damage(weight, coded, hessian)

    plain, priced = at(1.5, 0.0), at(1.5, 1.0)
    assert priced[0] < plain[0] - 0.1 and priced[1] > plain[1]
    # at equal bits the priced one with a finer step does less damage
    curve = sorted(at(scale, 1.0) for scale in np.geomspace(0.7, 1.5, 12))
    assert np.interp(plain[0], *zip(*curve, strict=True)) < 0.97 * plain[1]


def test_rates_learn():
    rates = Rates()
    number = classes_of(np.array([1.0]))
    before = rates.bits(number)[0]
    assert abs(np.exp2(-before[0]) + 2 * np.exp2(-before[1:]).sum() - 1) < 1e-9, "lengths of a distribution over signed integers"
    rates.add(number, np.full((100_000, 1), -3))
    after = rates.bits(number)[0]
    assert after[3] < 1.05 < before[3] and after[1] > before[1]
    assert rates.bits(number + 1)[0, 3] == pytest.approx(Rates().bits(number + 1)[0, 3]), "only its class"
    rates.add(number, np.array([[LONGEST + 500]]))
    assert np.isfinite(rates.bits(number)).all() and EXCHANGE == pytest.approx(0.1155, abs=1e-4)


def test_the_integer_of_least_cost():
    """Against all magnitudes up to that of the nearest, signs kept; what is beyond the last price is rounded to nearest."""
    rng = np.random.default_rng(10)
    price = np.cumsum(rng.uniform(0, 2, (3, LONGEST + 1)), axis=1) * EXCHANGE * 8
    once, twice = _downward(price)
    for k in range(3):
        ratio = np.concatenate([rng.normal(size=4000) * 3, rng.normal(size=200) * 100, [0.0, 3000.2]]).astype(np.float32)
        found = _choose(ratio, once[k], twice[k])
        assert np.all(found[np.abs(ratio) > LONGEST + 3] == np.rint(ratio[np.abs(ratio) > LONGEST + 3]))
        near = np.abs(ratio) < LONGEST
        magnitude, nearest = np.abs(ratio[near]).astype(np.float64), np.rint(np.abs(ratio[near])).astype(int)
        cost = np.array([(magnitude - np.maximum(nearest - down, 0)) ** 2 + price[k][np.maximum(nearest - down, 0)] for down in range(3)])
        spent = (magnitude - np.abs(found[near])) ** 2 + price[k][np.abs(found[near]).astype(int)]
        assert np.all(found * ratio >= 0) and np.mean(spent > cost.min(axis=0) + 1e-6) < 0.02, "two at once, where one alone is no better, is not looked for"
        assert np.mean(spent < cost[0] - 1e-6) > 0.2, "control: the nearest is often not the best"


def test_masks_and_sparsity():
    rng = np.random.default_rng(7)
    weight, hessian = rng.normal(size=(64, 96)).astype(np.float32), moments(96)
    made, steps = factor(hessian, 0.0), same_step(0.05, 64, 96)
    keep = rng.random(weight.shape) < 0.5
    coded = gptq(weight, made, steps, keep=keep)
    assert not coded.integers[~keep].any() and np.mean(coded.integers[keep] != 0) > 0.9
    mended, plain = damage(weight, coded, hessian), damage(weight, gptq(weight * keep, factor(np.eye(96), 0.0), steps), hessian)
    assert mended < 0.8 * plain, "what is left makes up for what was taken"
    chosen = gptq(weight, made, steps, sparsity=0.5)
    assert abs(np.mean(chosen.integers == 0) - 0.5) < 0.05 and damage(weight, chosen, hessian) < 0.6 * mended


def test_refusals():
    weight = np.ones((2, 2), dtype=np.float32)
    with pytest.raises(UsageError, match="integers up to"):
        gptq(weight, factor(np.eye(2)), same_step(2.0**-16, 2, 2))
    with pytest.raises(UsageError, match="sparsity"):
        gptq(weight, factor(np.eye(2)), same_step(0.5, 2, 2), sparsity=1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 70), st.integers(-34, 28), st.floats(0.05, 4.0), st.floats(0.0, 2.0), st.integers(0, 2**31))
def test_what_is_rounded_comes_back_to_the_bit(rows, cols, exponent, level, penalty, seed):
    """Shapes from one element, weights from 1e-34 to 1e28, zeros: scales of rows and columns, through the file, bit for bit."""
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(rows, cols)) * 10.0**exponent).astype(np.float32) * (rng.random(size=(rows, cols)) < 0.8)
    made = factor(moments(cols, seed=seed % 7))
    steps = water_filling(level * max(float(np.abs(weight).max()), 1e-34) * np.sqrt(made.diagonal.max()) / 8, np.exp(rng.normal(size=rows)), made.column_diagonal)
    coded = gptq(weight, made, steps, penalty=penalty)
    package = encode(QuantizedModel({}, {"w": coded}))
    assert decode(package)[1]["w"].tobytes() == coded.dequantized().tobytes()
    for cut in (1, len(package) // 2):
        with pytest.raises(InputError):
            decode(package[:-cut])
