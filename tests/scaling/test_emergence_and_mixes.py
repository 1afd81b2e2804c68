"""passuntil, resampling, filtering, critical batch, learning-rate sensitivity: closed forms against simulation."""

import numpy as np
import pytest

from scalebound import scaling
from scalebound.core.errors import InputError, UsageError
from scalebound.scaling.laws.critical_batch import tradeoff
from scalebound.scaling.laws.filtering import Pool, best_mix, mixture_error
from scalebound.scaling.laws.lr_sensitivity import lr_sensitivity, unstable_rate
from scalebound.scaling.laws.passuntil import departure, pass_until
from scalebound.scaling.laws.resampling import best_draws, ceiling, conditional_accuracy, outcomes


def test_pass_until_is_unbiased_and_the_obvious_estimate_is_not():
    rng = np.random.default_rng(0)
    p, r = 0.03, 3
    draws = r + rng.negative_binomial(r, p, size=400_000)
    estimate = pass_until(draws, r)
    error = estimate.std() / np.sqrt(len(draws))
    assert abs(estimate.mean() - p) < 5 * error
    assert (r / draws).mean() - p > 20 * error
    with pytest.raises(InputError):
        pass_until(draws, 1)
    with pytest.raises(InputError, match="entry 0"):
        pass_until(np.array([1]), 2)


def test_departure_has_level_and_power():
    N = np.geomspace(1e7, 1e9, 9)

    def rates(seed, size, jump=1.0):
        noise = np.exp(0.05 * np.random.default_rng(seed).standard_normal(len(size)))
        return np.minimum(np.exp(-2e3 * size**-0.35) * noise * jump, 1.0)

    larger = np.array([2e9, 4e9])
    false = sum(
        departure(
            scaling.fit({"params": N, "pass_rate": rates(k, N)}, "passuntil", bootstrap=300), larger, rates(1000 + k, larger)
        ).direction
        != "none"
        for k in range(40)
    )
    assert false <= 8  # level 5%: more than 8 of 40 has probability 2e-4
    fit = scaling.fit({"params": N, "pass_rate": rates(0, N)}, "passuntil", bootstrap=1000)
    assert departure(fit, larger, rates(5, larger, jump=2.5)).direction == "above"
    assert departure(fit, larger, rates(5, larger, jump=0.4)).direction == "below"


def test_resampling_closed_form_against_simulation():
    rng = np.random.default_rng(1)
    p, f, K = np.array([0.3, 0.05, 0.0, 0.6]), np.array([0.05, 0.1, 0.02, 0.0]), 7
    n = 200_000
    u = rng.random((4, n, K))
    right, wrong = u < p[:, None, None], (u >= p[:, None, None]) & (u < (p + f)[:, None, None])
    passed = right | wrong
    first = passed.argmax(axis=2)
    returned = passed.any(axis=2)
    correct = np.take_along_axis(right, first[..., None], 2)[..., 0] & returned
    spent = np.where(returned, first + 1, K)
    a, b, c = (float(x[0]) for x in outcomes(p, f, np.array([K])))
    assert (
        a == pytest.approx(correct.mean(), abs=4e-3)
        and b == pytest.approx((returned & ~correct).mean(), abs=4e-3)
        and c == pytest.approx(spent.mean(), abs=2e-2)
    )


def test_resampling_ceiling_and_best_draws():
    p, f = np.array([0.5, 0.01, 0.0]), np.array([0.0, 0.01, 0.02])
    assert ceiling(p, f) == pytest.approx((1 + 0.5 + 0) / 3)
    assert conditional_accuracy(p, f, np.array([10**7]))[0] == pytest.approx(ceiling(p, f))
    falling = conditional_accuracy(p, f, np.array([1, 10, 100, 1000]))
    assert np.all(np.diff(falling) < 0)
    # with a perfect verifier more draws never hurt, with a costly false positive the best number is finite
    assert not best_draws(p, 0 * f, wrong_cost=1.0).finite
    best = best_draws(p, f, wrong_cost=2.0)
    right, wrong, _ = outcomes(p, f, np.arange(1, 300))
    assert best.finite and best.draws == 1 + int(np.argmax(right - 2 * wrong))
    with pytest.raises(InputError):
        ceiling(np.array([0.9]), np.array([0.5]))


def test_filtering_single_pool_is_the_law_and_the_best_mix_changes():
    law = scaling.get_law("filtering")
    rows = {"tokens": np.array([5e5, 2.5e6]), "unique_tokens": np.array([1e6, 1e6])}
    values = law.predict(np.array([1.0, 0.2, 3.0]), rows)
    pool = Pool("a", 1e6, 0.2, 3.0)
    assert [mixture_error([pool], samples) for samples in (5e5, 2.5e6)] == pytest.approx(values.tolist())
    pools = [Pool("top", 1e6, 0.30, 2.0), Pool("middle", 1e6, 0.26, 2.0), Pool("rest", 1e6, 0.15, 2.0)]
    chosen = [best_mix(pools, samples)[0] for samples in np.geomspace(5e5, 1e9, 12)]
    assert chosen[0] == ("top",) and "middle" in chosen[-1] and len({*chosen}) > 1
    # repeating never helps more than fresh data would
    assert mixture_error([pool], 1e7) > mixture_error([Pool("b", 1e7, 0.2, 3.0)], 1e7)
    with pytest.raises(UsageError):
        mixture_error([], 10)


def test_critical_batch_tradeoff_is_a_hyperbola_and_matches_the_law():
    parameters = {"Nc": 6.5e13, "aN": 0.077, "Sc": 2.1e3, "aS": 0.76, "Bstar": 2e8, "aB": 0.21}
    law = scaling.get_law("critical-batch")
    for batch in (1e4, 1e6, 1e8):
        way = tradeoff(parameters, params=1e8, loss=3.5, batch_tokens=batch)
        assert (way.steps / way.min_steps - 1) * (way.tokens / way.min_tokens - 1) == pytest.approx(1)
        row = {"params": np.array([1e8]), "step": np.array([way.steps]), "batch_tokens": np.array([batch])}
        assert law.predict(np.array(list(parameters.values())), row)[0] == pytest.approx(3.5, rel=1e-9)
    with pytest.raises(InputError, match="never reach"):
        tradeoff(parameters, params=1e5, loss=2.0, batch_tokens=1e6)


def test_learning_rate_sensitivity():
    lr = np.geomspace(1e-4, 1e-1, 7)
    flat, steep = np.full(7, 3.0), 3.0 + np.log10(lr / 1e-3) ** 2
    assert lr_sensitivity(lr, flat, initial_loss=10) == 0
    x = np.linspace(-1, 2, 200_001)
    nodes = np.log10(lr / 1e-3)
    exact = np.interp(x, nodes, nodes**2).mean()
    assert lr_sensitivity(lr, steep, initial_loss=10) == pytest.approx(exact, abs=1e-4)
    assert lr_sensitivity(lr, np.append(flat[:-1], np.nan), initial_loss=10) > 0.5
    with pytest.raises(InputError):
        lr_sensitivity(lr, flat, initial_loss=10, high=1.0)
    N, eta = np.repeat([1e7, 1e8, 1e9], 3), np.tile([1e-3, 1e-2, 1e-1], 3)
    found = unstable_rate(N, eta, 5e-3 * N**0.2 * eta**0.5 * 1e3, at=1e11, limit=1e4)
    assert found.lr == pytest.approx((1e4 / (5 * 1e11**0.2)) ** 2) and found.slope_params == pytest.approx(0.2)
    with pytest.raises(InputError):
        unstable_rate(N, eta, eta**-1.0, at=1e11, limit=1e4)
