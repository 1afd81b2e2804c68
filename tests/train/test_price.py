"""The price of code is the certificate's own slope: against finite differences of the product form, in 50 digits and as the library solves it."""

import math

import mpmath
import numpy as np
import pytest

from scalebound.certify import product_bound
from scalebound.certify.grid import TOP
from scalebound.certify.settings import UNIFORM_ALPHAS
from scalebound.train.price import product_price

V = 64


def draw(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(1.0, 1.2, n)


def bound(nll, code, alpha, s):
    """The product form for one alpha and one s, by its definition."""
    delta = mpmath.log(V / mpmath.mpf(alpha))
    smoothed = [-mpmath.log((1 - mpmath.mpf(alpha)) * mpmath.exp(-x) + mpmath.mpf(alpha) / V) for x in nll]
    g = sum(mpmath.log(1 - mpmath.mpf(s) * x / delta) for x in smoothed) / len(nll)
    return delta / mpmath.mpf(s) * (1 - mpmath.exp(g - code))


@pytest.mark.parametrize("code", [0.01, 0.05, 0.2])
def test_slope_against_high_precision(code):
    nll = [mpmath.mpf(float(x)) for x in draw(40)]
    with mpmath.workdps(50):
        alpha, s = min(((alpha, s) for alpha in UNIFORM_ALPHAS for s in TOP), key=lambda pair: bound(nll, code, *pair))
        h = mpmath.mpf(10) ** -15
        by_code = (bound(nll, code + h, alpha, s) - bound(nll, code - h, alpha, s)) / (2 * h)
        by_loss = (bound([x + h for x in nll], code, alpha, s) - bound([x - h for x in nll], code, alpha, s)) / (2 * h)
        expected = float(by_code / by_loss)
    assert product_price(np.array([float(x) for x in nll]), V, code) == pytest.approx(expected, rel=6e-4)  # four digits
    other = float(math.log(V / alpha) / s)  # what the loss's own slope being 1 would make of it
    assert other != pytest.approx(expected, rel=6e-4)


def test_slope_of_the_solved_bound():
    """The root of the mixture over s, at the best alpha: within 6%, since one s stands for the mixture of all."""
    nll, delta = draw(20_000), 0.01
    for bits in (300.0, 1500.0):
        code = (math.log(1 / delta) + bits * math.log(2)) / len(nll)

        def at(shift: float, bits: float, alpha: float) -> float:
            smoothed = -np.log((1 - alpha) * np.exp(-nll - shift) + alpha / V)
            return product_bound(smoothed, 0.0, range_=math.log(V / alpha), code_bits=bits, delta=delta).value

        alpha = min(UNIFORM_ALPHAS, key=lambda alpha: at(0.0, bits, alpha))
        by_code = (at(0.0, 1.02 * bits, alpha) - at(0.0, 0.98 * bits, alpha)) / (0.04 * bits * math.log(2) / len(nll))
        by_loss = (at(1e-3, bits, alpha) - at(0.0, bits, alpha)) / 1e-3
        assert product_price(nll, V, code) == pytest.approx(by_code / by_loss, rel=0.06)


def test_shorter_codes_are_worth_more():
    prices = [product_price(draw(4000), V, code) for code in (0.2, 0.05, 0.01, 0.002)]
    assert prices == sorted(prices) and prices[-1] > 3 * prices[0]
