"""Intervals and comparisons: against the bounds they are made of, their widths, verdicts and refusals."""

import math

import msgspec
import numpy as np
import pytest

from scalebound.certify import compare, interval, peaked_grid, product_bound, product_lower_bound, smooth_uniform
from scalebound.certify.compare import mixed_difference
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats, StatsInfo, StreamRef


def bare(losses, vocab=256, **arrays):
    losses = np.asarray(losses, dtype="f4")
    return Stats(
        StatsInfo(kind="bare", tokens=len(losses), window=(0, len(losses)), vocab_size=vocab), {"nll": losses, **arrays}, path="l.npy"
    )


def test_ends_are_the_product_bounds():
    x = np.random.default_rng(0).gamma(2.0, 1.0, 5000).astype("f4")
    found, alpha, half = interval(bare(x), level=0.9, alpha=0.001, sigma=1.4), 0.001, 0.05
    smooth = smooth_uniform(x.astype("f8"), 256, alpha)
    for range_, high in ((math.log(256 / alpha), True), (math.log(256), False)):
        grid, w = peaked_grid(range_=range_, sigma=1.4, horizon=5000, delta=half)
        common = {"range_": range_, "code_bits": 0, "delta": half, "grid": grid, "weights": w}
        if high:
            assert found.high == pytest.approx(product_bound(smooth, 0.0, **common).value, rel=1e-12)
        else:
            assert found.low == pytest.approx(min(product_lower_bound(v, 0.0, **common).value for v in (x.astype("f8"), smooth)), rel=1e-12)
    assert found.low < found.mean < found.high and found.mean_smoothed == pytest.approx(smooth.mean())
    assert found.unit == "nats/token" and "raw" in found.target


def test_width_at_ten_thousand_tokens():
    """At most 1.4 times the normal approximation's when sigma was named right; a sigma wrong by a factor of 2 costs little, none at all a
    bit more."""
    rng, z = np.random.default_rng(1), 1.959964
    for draw, sigma in (
        (lambda: rng.gamma(2.0, 1.0, 10_000), math.sqrt(2.0)),
        (lambda: rng.exponential(2.0, 10_000), 2.0),
        (lambda: rng.uniform(0, 4, 10_000), 4 / math.sqrt(12)),
    ):
        x = draw()
        ratio = {
            factor: (f.high - f.low) / (2 * z * x.std() / 100)
            for factor in (0.5, 1.0, 2.0)
            for f in [interval(bare(x), sigma=sigma * factor)]
        }
        assert ratio[1.0] <= 1.41 and ratio[0.5] <= 1.8 and ratio[2.0] <= 1.8
        f = interval(bare(x))
        assert (f.high - f.low) / (2 * z * x.std() / 100) <= 1.9


def test_the_entropy_as_centre_shortens_the_interval():
    rng = np.random.default_rng(2)
    entropy = rng.uniform(0.2, 4.0, 20_000)
    x = np.maximum(entropy + rng.normal(0, 0.1, 20_000), 0)
    with_centre = interval(bare(x, entropy=entropy.astype("f4")), sigma=0.12)
    without = interval(bare(x), sigma=1.1)
    assert with_centre.high - with_centre.low < 0.2 * (without.high - without.low)


def test_errors_at_their_limits():
    for value in (0.0, 1.0):
        found = interval(bare(np.full(100, value), vocab=0), maximum=1.0, level=0.95)
        assert 0 <= found.low <= value <= found.high <= 1.0 and found.high - found.low < 0.08
    exact = 1 - 0.025 ** (1 / 100)  # Clopper and Pearson at 0 of 100; ours holds at every n, so it is wider
    assert exact < interval(bare(np.zeros(100), vocab=0), maximum=1.0).high < 2.5 * exact
    with pytest.raises(InputError, match="token 3 "):
        interval(bare([0, 1, 0, 2.0], vocab=0), maximum=1.0)


def test_overconfident_models_get_an_interval_that_is_one():
    x = np.concatenate([np.full(5000, 1e-4), np.full(100, 40.0)])
    found = interval(bare(x), alpha=0.01)
    assert found.low < found.high and found.mean_smoothed < found.mean


def test_mixed_difference_against_its_definition():
    rng, alpha = np.random.default_rng(3), 0.07
    a, b = rng.gamma(1.0, 3.0, 500), rng.gamma(1.0, 3.0, 500)
    plain = -np.log((1 - alpha) * np.exp(-a) + alpha * np.exp(-b)) + np.log((1 - alpha) * np.exp(-b) + alpha * np.exp(-a))
    assert np.allclose(mixed_difference(a, b, alpha), plain, rtol=1e-11, atol=1e-13)
    assert np.array_equal(mixed_difference(b, a, alpha), -mixed_difference(a, b, alpha))
    far = mixed_difference(np.array([0.0, 1e6, 3.0]), np.array([1e6, 0.0, 3.0]), alpha)
    assert np.allclose(far, [-math.log((1 - alpha) / alpha), math.log((1 - alpha) / alpha), 0.0], rtol=1e-14)


def test_verdicts_and_symmetry():
    rng = np.random.default_rng(4)
    x = rng.gamma(2.0, 1.0, 30_000)
    worse, same = x + rng.normal(0.03, 0.3, 30_000).clip(-x), x + rng.normal(0, 1e-4, 30_000).clip(-x)
    forward, back = compare(bare(x), bare(worse)), compare(bare(worse), bare(x))
    assert forward.verdict == "better_a" and back.verdict == "better_b"
    assert (
        forward.low == pytest.approx(-back.high)
        and forward.e_value == pytest.approx(back.e_value)
        and forward.difference == pytest.approx(-back.difference)
    )
    assert forward.p_value == pytest.approx(1 / forward.e_value) and forward.log_e_value > math.log(20)
    assert compare(bare(x), bare(same)).verdict == "undecided"
    assert compare(bare(x), bare(same), epsilon=0.02).verdict == "equal"
    assert compare(bare(x), bare(worse), epsilon=1.0).verdict == "equal"
    identical = compare(bare(x), bare(x))
    assert identical.e_value == pytest.approx(1.0) and identical.p_value == 1.0
    overwhelming = compare(bare(np.zeros(30_000)), bare(np.full(30_000, 5.0)))
    assert overwhelming.verdict == "better_a" and math.isfinite(overwhelming.e_value) and overwhelming.log_e_value > 700


def test_refusals():
    x = np.random.default_rng(5).gamma(2.0, 1.0, 100)
    good = bare(x)

    def on(stream, window=(0, 100)):
        info = StatsInfo(tokens=100, window=window, vocab_size=256, block_tokens=10, stream=StreamRef("", stream, 1000))
        return Stats(info, {"nll": x.astype("f4")})

    nan = x.copy()
    nan[3] = np.nan
    for call in (
        lambda: compare(good, bare(x[:99])),
        lambda: compare(on("a"), on("b")),
        lambda: compare(on("a"), on("a", (100, 200))),
        lambda: compare(good, bare(nan)),
        lambda: interval(bare(nan)),
        lambda: interval(good, vocab_size=7),
        lambda: compare(bare([]), bare([])),
        lambda: interval(bare([])),
        lambda: interval(bare(-x)),
    ):
        with pytest.raises(InputError):
            call()
    for call in (
        lambda: interval(bare(x, vocab=0)),
        lambda: interval(good, level=1.0),
        lambda: interval(good, alpha=0.0),
        lambda: interval(good, sigma=0.0),
        lambda: interval(good, maximum=-1.0),
        lambda: interval(good, horizon=0),
        lambda: compare(good, good, alpha=0.5),
        lambda: compare(good, good, epsilon=-1),
        lambda: compare(good, good, level=0),
    ):
        with pytest.raises(UsageError):
            call()
    sampled = msgspec.structs.replace(on("a").info, tokens=50)
    halves = [Stats(sampled, {"nll": x[:50].astype("f4"), "blocks": np.arange(k, 10, 2)}) for k in (0, 1)]
    with pytest.raises(InputError, match="other tokens"):
        compare(*halves)
