"""The checker's own sums and root finder against 50 digits, the golden vectors, and a plain loop."""

import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest

from scalebound_verify import bounds

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "bounds.json").read_text())["vectors"]


def both(x, y, range_, grid, weights, delta, bits) -> tuple[float, float, float]:
    """Product bound, Freedman bound and ceiling of one centre."""
    x, grid = np.asarray(x, float), np.asarray(grid, float)
    y = np.broadcast_to(np.asarray(y, float), x.shape)
    row = bounds.gather(lambda start, stop: (x[start:stop], [y[start:stop]]), 0, len(x), np.array([range_]), grid)[0] / len(x)
    weights = np.full(len(grid), 1 / len(grid)) if weights is None else np.array(weights) / math.fsum(weights)
    fixed = (
        len(x),
        row[1:2],
        row[3:][None],
        np.array([range_]),
        grid,
        np.log(weights)[None],
        math.log(1 / delta) + bits * math.log(2),
        float(row[0]),
    )
    return bounds.product(*fixed), bounds.freedman(*fixed), float(row[1]) + range_


def close(found: float, expected: str, ceiling: float) -> bool:
    right = min(float(expected), ceiling)
    return abs(found - right) <= 1e-12 * abs(right)


@pytest.mark.parametrize("v", VECTORS, ids=lambda v: v["id"])
def test_golden_vectors(v):
    settings, expected = (v["grid"], v["weights"]), v["expected"]
    if v["kind"] == "anchored":
        r = -np.log((1 - v["eps"]) * np.exp(-np.array(v["ref_nll"])) + v["eps"] / v["V"])
        x = -np.log((1 - v["alpha"]) * np.exp(-np.array(v["nll"])) + v["alpha"] * np.exp(-r))
        share = v["delta_share_difference"]
        one = both(x - r, 0.0, math.log(1 / v["alpha"]), *settings, v["delta"] * share, v["code_bits"])
        two = both(r, 0.0, math.log(v["V"] / v["eps"]), *settings, v["delta"] * (1 - share), v["ref_code_bits"])
        assert close(one[0], expected["product_difference"], one[2]) and close(two[0], expected["product_reference"], two[2])
        return
    if v["kind"] == "direct":
        x, range_ = v["X"], v["Delta"]
    else:
        x = -np.log((1 - v["alpha"]) * np.exp(-np.array(v["nll"])) + v["alpha"] / v["V"])
        range_ = math.log(v["V"] / v["alpha"]) - v["y_min"]
    product, freedman, ceiling = both(x, v["Y"], range_, *settings, v["delta"], v["code_bits"])
    assert close(product, expected["product"]["bound"], ceiling)
    if "grid" in expected and v["weights"] is None:
        assert close(freedman, expected["grid"]["bound"], ceiling)


def exact_root(x, ys, ranges, grid, w, right) -> float:
    """Root or ceiling of the mixture equation with 50 digits, by bisection of a plain double loop."""
    mpmath.mp.dps = 50
    n, xs = len(x), [mpmath.mpf(float(value)) for value in x]
    means = [mpmath.fsum(mpmath.mpf(float(value)) for value in y) / n for y in ys]
    sums = [[mpmath.fsum(mpmath.log1p(mpmath.mpf(s) * (mpmath.mpf(float(b)) - a) / mpmath.mpf(d)) for a, b in zip(xs, y,
        strict=True)) for s in grid]
            for y, d in zip(ys, ranges, strict=True)]  # fmt: skip

    def left(m):
        return mpmath.log(mpmath.fsum(mpmath.mpf(w[j][k])
                                      * mpmath.exp(sums[j][k] - n * mpmath.log1p(-mpmath.mpf(s) / mpmath.mpf(ranges[j]) * (m - means[j])))
                                      for j in range(len(ys)) for k, s in enumerate(grid)))  # fmt: skip

    low, high = mpmath.fsum(xs) / n, min(mean + mpmath.mpf(d) for mean, d in zip(means, ranges, strict=True))
    if left(high) <= right:
        return float(high)
    for _ in range(170):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) < right else (low, middle)
    return float(high)


@pytest.mark.parametrize("seed", range(12))
def test_root_against_fifty_digits(seed):
    """Random losses, one to three centres, grids down to 1e-5 and up to 0.999, no code to more than the tokens can pay."""
    rng = np.random.default_rng(seed)
    n, top = int(rng.integers(1, 60)), float(rng.uniform(2, 12))
    x = np.minimum(rng.exponential(top / 4, n), top)
    floors = rng.uniform(0, 1, int(rng.integers(0, 3)))
    ys, ranges = [np.zeros(n), *(np.maximum(rng.uniform(0, 3, n), floor) for floor in floors)], [top, *(top - floor for floor in floors)]
    grid = np.sort(10 ** rng.uniform(-5, -0.0005, int(rng.integers(1, 7))))
    w = rng.dirichlet(np.ones(len(ys) * len(grid))).reshape(len(ys), -1)
    right = math.log(1 / 10 ** rng.uniform(-6, -0.1)) + rng.choice([0, 3, 50, 3000]) * math.log(2)
    row = bounds.gather(lambda start, stop: (x[start:stop], [y[start:stop] for y in ys]), 0, n, np.array(ranges), grid)[0] / n
    j = len(ys)
    found = bounds.product(n, row[1 : 1 + j], row[1 + 2 * j :].reshape(j, -1), np.array(ranges), grid, np.log(w), right, float(row[0]))
    exact = exact_root(x, ys, ranges, grid, w, right)
    assert abs(found - exact) <= 1e-12 * abs(exact)


@pytest.mark.parametrize("s", [1e-6, 1e-3, 0.0999, 0.1, 0.5, 0.99, 1 - 1e-9])
@pytest.mark.parametrize("kind", ["mixed", "ceiling", "constant", "large"])
def test_logarithms_near_one_and_at_the_ceiling(s, kind):
    """No digits are lost, neither where s vanishes beside 1 nor where every loss sits at its ceiling."""
    rng = np.random.default_rng(3)
    a = {
        "mixed": rng.uniform(-1, 1, 1003),
        "ceiling": np.full(1003, -1.0),
        "constant": np.full(1003, 1e-3),
        "large": rng.uniform(-1, 1e6, 1003),
    }[kind]
    exact = math.fsum(np.log1p(s * a))
    # an error e of the sum moves a bound by (e/n) Delta/s: 4e-16 of the range is allowed
    assert abs(float(bounds.log1p(s * a).sum()) - exact) <= 2e-14 * float(np.abs(np.log1p(s * a)).sum()) + 4e-16 * len(a) * s


def test_block_means_and_their_spread():
    rng = np.random.default_rng(4)
    x, y, grid = rng.uniform(0, 3, 4_000), rng.uniform(0, 2, 4_000), np.array([0.2, 0.9])
    total, sd = bounds.gather(lambda start, stop: (x[start:stop], [y[start:stop]]), 0, 4_000, np.array([3.0]), grid, 8)
    columns = [x, y, (y - x) ** 2, *(np.log1p(s * (y - x) / 3) for s in grid)]
    means = np.array([column.reshape(-1, 8).mean(1) for column in columns])
    np.testing.assert_allclose(total, means.sum(1), rtol=1e-13)
    np.testing.assert_allclose(sd, means.std(1), rtol=1e-12)


def test_a_loss_above_its_range_is_refused():
    with pytest.raises(bounds.Refused, match="exceeds its centre"):
        both([1.0, 5.0], 0.0, 4.0, [0.5], None, 0.1, 0)


def test_sampling_radius_covers():
    """Both inequalities hold for means of draws without replacement, and a tenth of the radius does not (the control)."""
    rng = np.random.default_rng(6)
    for total, m in ((100, 20), (100, 80), (4_000, 1_500)):
        values = rng.beta(0.3, 2.0, total)
        off = []
        for _ in range(400):
            draw = rng.permutation(values)[:m]
            r = float(bounds.radius(m, total, np.array([1.0]), np.array([draw.std()]), 0.05)[0])
            off.append((draw.mean() - values.mean()) / r)
        assert np.mean(np.array(off) > 1) <= 0.05 and np.mean(np.array(off) > 0.1) > 0.05
