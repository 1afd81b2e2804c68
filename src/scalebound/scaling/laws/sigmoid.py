"""``sigmoid``: task accuracy from loss, bits per byte, or a measure of capability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.scaling.laws.formula import FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Parameter


class Sigmoid(FormulaLaw):
    """Accuracy as a sigmoid of one quantity.

    .. math:: \\mathrm{acc}(x) = \\frac{a}{1 + e^{-k (x - x_0)}} + b

    With x a loss or bits per byte, a is negative: accuracy b at x far below x0, b + a (chance) far above. k >= 0 fixes the sign.

    Source
    ------
    Bhagia et al. 2024, arXiv 2412.04403, second step; Ruan et al. 2024, arXiv 2405.10938 (x a principal component). Least squares.

    Examples
    --------
    >>> round(float(Sigmoid().predict(np.array([-0.75, 1.0, 4.0, 0.8]), {"loss": np.array([0.8])})[0]), 3)
    0.625
    """

    name = "sigmoid"
    title = "Accuracy, sigmoid of loss"
    equation = "acc = a/(1 + exp(-k (x - x0))) + b"
    source = "arXiv:2412.04403"
    target = "accuracy"
    residual = "plain"
    objective = "squares"
    positive = ()
    parameters = (
        Parameter("a", -1.0, 1.0, "height of the step; negative when accuracy falls with x"),
        Parameter("b", 0.0, 1.0, "accuracy far below x0"),
        Parameter("k", 1e-4, 1e4, "steepness", "log"),
        Parameter("x0", -1e6, 1e6, "position of the middle"),
    )
    linear = ("a", "b")

    def __init__(self, x: str = "loss") -> None:
        self.inputs = (x,)

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        x = data[self.inputs[0]]
        low, high = float(np.min(x)), float(np.max(x))
        width = max(high - low, 1e-12)
        return {"k": np.geomspace(0.3, 60.0, 14) / width, "x0": np.linspace(low - width, high + width, 19)}

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        # tanh does not overflow where exp would: 1/(1 + e^-u) = (1 + tanh(u/2))/2
        u = parameters["k"] * (data[self.inputs[0]] - parameters["x0"])
        return parameters["a"] * (0.5 + 0.5 * np.tanh(0.5 * u)) + parameters["b"]
