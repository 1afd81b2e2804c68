"""``overtraining``: loss at compute C and M tokens per parameter, one exponent for both."""

from __future__ import annotations

import numpy as np

from scalebound.scaling.laws.power_sum import PowerSum
from scalebound.scaling.laws.protocol import Inputs, Parameter


class Overtraining(PowerSum):
    """Loss of models trained far beyond (or short of) the compute-optimal ratio.

    .. math:: L(C, M) = E + (a M^{\\eta} + b M^{-\\eta})\\, C^{-\\eta}, \\qquad C = 6ND,\\; M = D/N

    It is the Chinchilla law with :math:`\\alpha = \\beta = 2\\eta`, :math:`A = a 6^{-\\eta}`, :math:`B = b 6^{-\\eta}`: at a fixed M the
    loss is one power law of compute whose exponent does not depend on M. Computed from ``params`` and ``tokens``.

    Source
    ------
    Gadre et al. 2024, arXiv 2403.08540, equation 4.

    Examples
    --------
    >>> row = {"params": np.array([1e9]), "tokens": np.array([2e10])}
    >>> round(float(Overtraining().predict(np.array([1.8366, 212.2, 366.7, 0.1364]), row)[0]), 3)
    2.864
    """

    name = "overtraining"
    title = "Over-training law"
    equation = "L = E + (a M^eta + b M^-eta) C^-eta"
    source = "arXiv:2403.08540"
    inputs = ("params", "tokens")
    parameters = (
        Parameter("E", 0.0, 1e6, "irreducible loss"),
        Parameter("a", 1e-12, 1e40, "size of the part that grows with tokens per parameter", "log"),
        Parameter("b", 1e-12, 1e40, "size of the part that falls with tokens per parameter", "log"),
        Parameter("eta", 0.0, 2.0, "exponent in compute"),
    )
    term_exponents = (0, 0)
    grids = (np.geomspace(0.01, 1.0, 32),)

    def term_inputs(self, inputs: Inputs) -> list[np.ndarray]:
        # log C - log M = log 6 + 2 log N and log C + log M = log 6 + 2 log D
        return [np.log(6.0) + 2 * np.log(np.asarray(inputs[name], dtype=float)) for name in self.inputs]
