"""``isoflop``: compute-optimal size as a power of compute; the law that an isoFLOP analysis ends in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.scaling.laws.formula import FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Parameter


class IsoFlopLaw(FormulaLaw):
    """Compute-optimal parameters at a budget.

    .. math:: N^*(C) = k\\, C^{e}, \\qquad D^*(C) = C/(6 N^*(C))

    Column ``flops``, target ``params``. ``scalebound fit --law isoflop`` finds the optimum of every budget first
    (:mod:`scalebound.scaling.isoflop`); on a table that already holds optima it is an ordinary law.

    Source
    ------
    Hoffmann et al. 2022, arXiv 2203.15556, approach 2; Porian et al. 2024, arXiv 2406.19146.

    Examples
    --------
    >>> round(float(IsoFlopLaw().predict(np.array([0.1, 0.5]), {"flops": np.array([1e20])})[0]) / 1e9, 9)
    1.0
    """

    name = "isoflop"
    title = "Compute-optimal size"
    equation = "N* = k C^e"
    source = "arXiv:2203.15556, arXiv:2406.19146"
    inputs = ("flops",)
    target = "params"
    objective = "squares"
    parameters = (
        Parameter("k", 1e-60, 1e60, "optimal parameters at one FLOP", "log"),
        Parameter("e", 0.0, 2.0, "exponent of compute"),
    )
    linear = ("k",)

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"e": np.linspace(0.02, 1.5, 40)}

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        return np.exp(np.log(parameters["k"]) + parameters["e"] * np.log(data["flops"]))
