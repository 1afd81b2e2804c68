"""``chinchilla``: loss of a model of N parameters trained on D tokens, seen once."""

from __future__ import annotations

import numpy as np

from scalebound.scaling.laws.power_sum import PowerSum
from scalebound.scaling.laws.protocol import Inputs, Parameter


class Chinchilla(PowerSum):
    """The parametric law of Hoffmann et al.

    .. math:: L(N, D) = E + A/N^{\\alpha} + B/D^{\\beta}

    N ``params``, D ``tokens``, L nats per token. At C = 6ND FLOPs the loss is least at
    :math:`N^* = G (C/6)^{\\beta/(\\alpha+\\beta)}`, :math:`G = (\\alpha A/(\\beta B))^{1/(\\alpha+\\beta)}`.

    Source
    ------
    Hoffmann et al. 2022, arXiv 2203.15556, approach 3; data and checks of Besiroglu et al. 2024, arXiv 2404.10102.

    Examples
    --------
    >>> row = {"params": np.array([7e9]), "tokens": np.array([1.4e11])}
    >>> round(float(Chinchilla().predict(np.array([1.8172, 482.01, 2085.43, 0.3478, 0.3658]), row)[0]), 3)
    2.173
    """

    name = "chinchilla"
    title = "Chinchilla law"
    equation = "L = E + A/N^alpha + B/D^beta"
    source = "arXiv:2203.15556"
    inputs = ("params", "tokens")
    parameters = (
        Parameter("E", 0.0, 1e6, "irreducible loss"),
        Parameter("A", 1e-12, 1e40, "size of the part due to few parameters", "log"),
        Parameter("B", 1e-12, 1e40, "size of the part due to few tokens", "log"),
        Parameter("alpha", 0.0, 3.0, "exponent in parameters"),
        Parameter("beta", 0.0, 3.0, "exponent in tokens"),
    )
    term_exponents = (0, 1)
    grids = (np.geomspace(0.05, 1.2, 8), np.geomspace(0.05, 1.2, 8))
    polished = 4

    def term_inputs(self, inputs: Inputs) -> list[np.ndarray]:
        return [np.log(np.asarray(inputs["params"], dtype=float)), np.log(np.asarray(inputs["tokens"], dtype=float))]
