"""Properties of every bound on random inputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalebound.certify import (
    freedman_bound,
    mixture_bound,
    product_bound,
    product_lower_bound,
    smooth_anchored,
    smooth_reference,
    smooth_uniform,
)

BOUNDS = [product_bound, mixture_bound, freedman_bound]
SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def problems(draw):
    n, seed, top = draw(st.integers(1, 400)), draw(st.integers(0, 2**32 - 1)), draw(st.floats(0.1, 50))
    rng = np.random.default_rng(seed)
    x = np.minimum(rng.gamma(draw(st.floats(0.1, 5)), 1.0, n) * top / 5, top)
    y = rng.uniform(0, top, n) * draw(st.sampled_from([0.0, 0.5, 1.0]))
    grid = sorted(draw(st.sets(st.floats(1e-4, 0.999), min_size=1, max_size=6)))
    return x, y, top, grid, draw(st.floats(0, 300)), draw(st.floats(1e-6, 0.9))


@pytest.mark.parametrize("bound", BOUNDS)
@SETTINGS
@given(problems(), st.floats(1.01, 10))
def test_monotone_in_confidence_and_code_length(bound, problem, factor):
    x, y, top, grid, bits, delta = problem
    value = bound(x, y, range_=top, code_bits=bits, delta=delta, grid=grid).value
    assert x.mean() - 1e-9 <= value <= y.mean() + top + 1e-9
    assert bound(x, y, range_=top, code_bits=bits, delta=delta / factor, grid=grid).value >= value
    assert bound(x, y, range_=top, code_bits=bits * factor + 1, delta=delta, grid=grid).value >= value


@SETTINGS
@given(problems())
def test_parts_add_up_and_the_forms_are_ordered(problem):
    x, y, top, grid, bits, delta = problem
    found = [bound(x, y, range_=top, code_bits=bits, delta=delta, grid=grid) for bound in BOUNDS]
    for bound in found:
        assert bound.mean + bound.complexity + bound.variance == pytest.approx(bound.value, rel=1e-12, abs=1e-12)
        assert bound.complexity >= 0 and bound.variance >= -1e-9 * top
    assert found[0].value <= found[1].value * (1 + 1e-12) and found[1].value <= found[2].value * (1 + 1e-12)
    assert product_lower_bound(x, y, range_=top, code_bits=bits, delta=delta, grid=grid).value <= x.mean() + 1e-9


@pytest.mark.parametrize("bound", BOUNDS)
@SETTINGS
@given(problems(), st.floats(0.01, 100))
def test_scale_equivariance(bound, problem, scale):
    x, y, top, grid, bits, delta = problem
    value = bound(x, y, range_=top, code_bits=bits, delta=delta, grid=grid).value
    assert bound(x * scale, y * scale, range_=top * scale * (1 + 1e-13), code_bits=bits, delta=delta, grid=grid).value == pytest.approx(
        value * scale, rel=1e-8
    )


@SETTINGS
@given(problems())
def test_order_of_tokens_does_not_matter_and_a_finer_grid_costs_at_most_its_price(problem):
    x, y, top, grid, bits, delta = problem
    value = product_bound(x, y, range_=top, code_bits=bits, delta=delta, grid=grid).value
    order = np.random.default_rng(0).permutation(len(x))
    assert product_bound(x[order], y[order], range_=top, code_bits=bits, delta=delta, grid=grid).value == pytest.approx(value, rel=1e-10)
    finer = sorted({*grid, 0.3, 0.7})
    price = np.log2(len(finer) / len(grid))
    assert product_bound(x, y, range_=top, code_bits=bits, delta=delta, grid=finer).value <= product_bound(
        x, y, range_=top, code_bits=bits + price, delta=delta, grid=grid
    ).value * (1 + 1e-10)


@SETTINGS
@given(
    st.lists(st.floats(0, 800), min_size=1, max_size=20),
    st.lists(st.floats(0, 800), min_size=20, max_size=20),
    st.integers(2, 200_000),
    st.floats(1e-6, 0.999),
    st.floats(1e-6, 0.999),
)
def test_smoothing_bounds_what_it_says(nll, ref, vocab, alpha, eps):
    u, r = np.array(nll), smooth_reference(np.array(ref[: len(nll)]), vocab, eps)
    x = smooth_uniform(u, vocab, alpha)
    assert np.all(x <= np.log(vocab / alpha) * (1 + 1e-15)) and np.all(x >= -1e-15) and np.all(x <= u - np.log1p(-alpha) + 1e-12)
    d = smooth_anchored(u, r, alpha) - r
    assert np.all(d <= np.log(1 / alpha) + 1e-12) and np.all(d >= -np.log((1 - alpha) * vocab / eps + alpha) - 1e-9)
