"""What a nat of code costs in loss: the slope of the product certificate, at the model as it is.

With the uniform smoothing of docs/mathematics.md section 2, ``X'_k = -log((1-alpha) p_k + alpha/V)``, ``Delta = log(V/alpha)``,
``A_k = -X'_k/Delta``, centre 0, one s and C nats of code per token, the product form (section 3) is

.. math:: T = \\frac{\\Delta}{s}\\big(1 - e^{g - C}\\big),\\qquad g = \\frac1n\\sum_k\\log(1 + sA_k).

A little more code raises it by ``(Delta/s) e^(g-C)`` a nat, a little more loss on every token by ``e^(g-C) mean(pi_k/(1+sA_k))``, where ``pi_k``
is the model's share of the mixture's probability of token k. What one nat of code per token is worth in loss is therefore

.. math:: \\lambda = \\frac{\\Delta/s}{\\operatorname{mean}_k\\ \\pi_k/(1+sA_k)}

at the alpha and s that make T smallest. On the demo's packages it is 6.9 to 7.9, and 9.1 to 9.7 at half their bits; their whole certificates (four
centres, the best alpha, finite differences) say 7.3 to 8.2, and 8.8 to 9.7 (benchmarks/LOG.md). It grows with tokens per bit: nothing but a constant would be
the same for 20 tokens a parameter and for 2,000.
"""

from __future__ import annotations

import math

import numpy as np

from scalebound.certify.grid import TOP
from scalebound.certify.settings import UNIFORM_ALPHAS


def product_price(nll: np.ndarray, vocab_size: int, code_nats: float) -> float:
    """Nats of loss that a nat of code per token is worth to the product certificate.

    Parameters
    ----------
    nll : (tokens,) nats, not empty     losses of some tokens, standing for all
    vocab_size                          V
    code_nats : > 0, nats per token     C, of the file and the confidence

    Cost: 8 alphas times 16 values of s, a logarithm each: about 0.1 s for 8,192 tokens. Rounded to four digits, so that machines agree on it.

    >>> product_price(np.full(1000, 2.0), 256, 0.05) < product_price(np.full(1000, 2.0), 256, 0.025)
    True
    """
    likely, grid = np.exp(-nll.astype(np.float64)), np.asarray(TOP)[:, None]
    found = (math.inf, math.nan)
    for alpha in UNIFORM_ALPHAS:
        mixed = (1 - alpha) * likely + alpha / vocab_size
        factors = 1 + grid * np.log(mixed) / math.log(vocab_size / alpha)  # 1 + s A
        scale = math.log(vocab_size / alpha) / grid[:, 0]
        bounds = scale * -np.expm1(np.log(factors).mean(axis=1) - code_nats)
        best = int(np.argmin(bounds))
        if bounds[best] < found[0]:
            found = (float(bounds[best]), float(scale[best] / ((1 - alpha) * likely / mixed / factors[best]).mean()))
    return float(f"{found[1]:.4g}")
