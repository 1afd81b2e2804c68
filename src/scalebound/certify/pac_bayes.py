"""PAC-Bayes with a Gaussian posterior, and measures of norm and sharpness: numbers for bounds that are about weights rather than code.

What is bounded first is another model than the one trained: its weights with noise. Given the losses of noisy models (measured elsewhere, a
:class:`WeightNoise`), everything here is arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError

GRID = 64  # prior scales, and rates c of the inequality: geometric, fixed beforehand, each paid by log 64
LARGEST_PRIOR, LARGEST_RATE = 2.0**4, 4.0
ALLOWED_RISE = 0.1  # nats a noise may add before it counts as sharp


@dataclass(frozen=True)
class WeightNoise:
    """Losses of weights ``w + sigma z``, z standard normal.

    ``losses`` (sigmas, samples): each the mean loss of a random block of the window, uniformly smoothed at ``alpha``, under a fresh draw of
    z. ``squared_distance`` is ``|w - w0|^2`` from weights w0 fixed before the data. ``spectral``: for every matrix its largest singular
    value and its distance ``|W - W0|_F``.
    """

    params: int
    squared_distance: float
    sigmas: tuple[float, ...]
    losses: np.ndarray
    plain: float  # mean smoothed loss without noise, on the same blocks
    alpha: float
    spectral: tuple[tuple[float, float], ...] = ()


def gaussian_kl(params: int, squared_distance: float, sigma: float, prior: float) -> float:
    """KL of ``N(w, sigma^2)`` from ``N(w0, prior^2)`` in ``params`` dimensions.

    >>> gaussian_kl(3, 2.0, 1.0, 1.0)
    1.0
    """
    ratio = (sigma / prior) ** 2
    return 0.5 * (params * (ratio - 1 - math.log(ratio)) + squared_distance / prior**2)


def pac_bayes_bound(noise: WeightNoise, range_: float, n: int, *, delta: float) -> tuple[float, float]:
    """Bound on the mean conditional loss of the noisy model, and the sigma that gives it.

    .. math:: \\bar X_Q + e_Q + \\frac{KL(Q\\|P) + \\log(2 \\cdot 64^2 S/\\delta)}{c\\,n} + \\frac{c\\,\\Delta^2}{8}

    minimised over the S sigmas, 64 prior scales and 64 rates c fixed beforehand; ``e_Q`` bounds the error of the mean over samples (empirical
    Bernstein, delta/(2 S) each). Tokens may depend on each other (Azuma-Hoeffding inside).

    Source: Seldin et al. 2012, PAC-Bayesian inequalities for martingales (arXiv 1110.6886); Dziugaite and Roy 2017 (arXiv 1703.11008) for
    Gaussian posteriors; Maurer and Pontil 2009 (arXiv 0907.3740).

    >>> quiet = WeightNoise(10, 0.1, (0.1,), np.full((1, 5000), 2.0), 2.0, 0.1)
    >>> pac_bayes_bound(quiet, 8.0, 10**6, delta=0.01)[0] < 2.2
    True
    """
    table = np.asarray(noise.losses, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(noise.sigmas) or table.shape[1] < 2 or not np.isfinite(table).all():
        raise InputError(f"losses of shape {table.shape}", where="pac_bayes", expected="(sigmas, samples), at least two samples, finite")
    count, samples = table.shape
    priors = LARGEST_PRIOR * 2.0 ** (-0.5 * np.arange(GRID))
    rates = LARGEST_RATE * 2.0 ** (-0.25 * np.arange(GRID))
    confidence, sampling = math.log(2 * GRID**2 * count / delta), math.log(4 * count / delta)
    best = (math.inf, noise.sigmas[0])
    for sigma, row in zip(noise.sigmas, table, strict=True):
        error = math.sqrt(2 * float(row.var(ddof=1)) * sampling / samples) + 7 * range_ * sampling / (3 * (samples - 1))
        kl = min(gaussian_kl(noise.params, noise.squared_distance, sigma, float(prior)) for prior in priors)
        slack = float(((kl + confidence) / (rates * n) + rates * range_**2 / 8).min())
        best = min(best, (float(row.mean()) + error + slack, sigma))
    return best


def sharpness_measure(noise: WeightNoise, range_: float, n: int, *, delta: float) -> tuple[float, float]:
    """``X(sigma) + range sqrt((|w - w0|^2/(4 sigma^2) + log(n/delta) + 10)/n)`` at the largest sigma that adds at most 0.1 nats; and that sigma.

    The PAC-Bayes sharpness of Neyshabur et al. 2017 (arXiv 1706.08947) as Jiang et al. 2020 (arXiv 1912.02178) write it: for independent
    examples, of which tokens are none. Infinite when every sigma tried adds more.
    """
    means = np.asarray(noise.losses).mean(axis=1)
    fine = [(sigma, float(mean)) for sigma, mean in zip(noise.sigmas, means, strict=True) if mean <= noise.plain + ALLOWED_RISE]
    if not fine:
        return math.inf, 0.0
    sigma, mean = max(fine)
    return mean + range_ * math.sqrt((noise.squared_distance / (4 * sigma**2) + math.log(n / delta) + 10) / n), sigma


def spectral_measure(noise: WeightNoise, range_: float, n: int) -> float:
    """``X + range R/sqrt(n)``, ``R = prod |W|_2 (sum (|W - W0|_F/|W|_2)^(2/3))^(3/2)``: the spectral complexity of Bartlett, Foster and Telgarsky
    2017 (arXiv 1706.08498) with Frobenius norms and margin 1. Derived for feed-forward layers and independent examples: for a transformer a
    measure, not a bound. Infinite beyond what doubles hold.
    """
    if not noise.spectral:
        return math.inf
    norms, distances = np.asarray(noise.spectral).T
    log_r = float(np.log(norms).sum()) + 1.5 * math.log(float(((distances / norms) ** (2 / 3)).sum()))
    return noise.plain + range_ * math.exp(min(log_r - 0.5 * math.log(n), 700.0))
