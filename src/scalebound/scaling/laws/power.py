"""``power``: an irreducible part and one power of one quantity."""

from __future__ import annotations

import numpy as np

from scalebound.scaling.laws.power_sum import PowerSum
from scalebound.scaling.laws.protocol import Inputs, Parameter


class Power(PowerSum):
    """Loss (or any positive quantity) against one of parameters, tokens or FLOPs.

    .. math:: y = c + a\\, x^{-b}

    ``c`` estimates the entropy of the data (the irreducible part), ``a x^-b`` the reducible part: the divergence of the model from
    the data. x in its own unit, y and c in the unit of the target.

    Source
    ------
    Hestness et al. 2017, arXiv 1712.00409; Henighan et al. 2020, arXiv 2010.14701.

    Examples
    --------
    >>> Power().predict(np.array([1.5, 10.0, 0.5]), {"params": np.array([100.0, 10_000.0])}).tolist()
    [2.5, 1.6]
    """

    name = "power"
    title = "Irreducible loss plus one power law"
    equation = "y = c + a x^-b"
    source = "arXiv:1712.00409, arXiv:2010.14701"
    parameters = (
        Parameter("c", 0.0, 1e9, "irreducible part: the entropy of the data as this family of models can see it"),
        Parameter("a", 1e-30, 1e60, "size of the reducible part at x = 1", "log"),
        Parameter("b", 0.0, 5.0, "exponent of the reducible part"),
    )
    term_exponents = (0,)
    grids = (np.concatenate([np.geomspace(0.01, 0.1, 6, endpoint=False), np.geomspace(0.1, 3.0, 24)]),)

    def __init__(self, x: str = "params") -> None:
        self.inputs = (x,)

    def term_inputs(self, inputs: Inputs) -> list[np.ndarray]:
        return [np.log(np.asarray(inputs[self.inputs[0]], dtype=float))]
