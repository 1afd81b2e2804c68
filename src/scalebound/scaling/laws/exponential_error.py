"""``exponential-error``: average task error from loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.scaling.laws.formula import FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Parameter


class ExponentialError(FormulaLaw):
    """Error averaged over many tasks, as a function of loss.

    .. math:: \\mathrm{Err}(L) = \\epsilon - k\\, e^{-\\gamma L}

    L nats per token (column ``loss``), Err in [0, 1] (column ``error``). ``eps`` is the error of a model that knows nothing.

    Source
    ------
    Gadre et al. 2024, arXiv 2403.08540, equation 5. Plain least squares, as there.

    Examples
    --------
    >>> round(float(ExponentialError().predict(np.array([0.857, 2.2065, 0.7146]), {"loss": np.array([2.5])})[0]), 4)
    0.4873
    """

    name = "exponential-error"
    title = "Error from loss, exponential"
    equation = "Err = eps - k exp(-gamma L)"
    source = "arXiv:2403.08540"
    inputs = ("loss",)
    target = "error"
    residual = "plain"
    objective = "squares"
    parameters = (
        Parameter("eps", 0.0, 1e3, "error at infinite loss: random guessing"),
        Parameter("k", 1e-12, 1e12, "how much error there is to lose", "log"),
        Parameter("gamma", 0.0, 20.0, "how fast error falls as loss falls, per nat"),
    )
    linear = ("eps", "k")

    def __init__(self, x: str = "loss") -> None:
        self.inputs = (x,)

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"gamma": np.geomspace(0.02, 12.0, 40)}

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        x = data[self.inputs[0]]
        return parameters["eps"] - parameters["k"] * np.exp(-parameters["gamma"] * x)
