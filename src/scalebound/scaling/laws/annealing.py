"""``annealing``: a whole loss curve from its learning-rate schedule, two sums and three or more constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.scaling.laws.formula import FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Inputs, Parameter
from scalebound.scaling.laws.schedule import schedules


class Annealing(FormulaLaw):
    """Loss along training under any schedule.

    .. math:: L(s) = L_0 + A\\, S_1^{-\\alpha} - C\\, S_2, \\quad S_1 = \\sum_{i \\le s} \\eta_i,\\;
              S_2 = \\sum_{i\\le s} m_i,\\; m_i = \\lambda m_{i-1} + (\\eta_{i-1} - \\eta_i), \\; \\lambda = 0.999

    Columns ``step``, ``lr`` and, for several curves, a group column naming the curve. S_1 is progress, S_2 how much and how long the
    rate has fallen. Schedules between rows as in :mod:`~scalebound.scaling.laws.schedule`.

    Source
    ------
    Tissue, Wang and Wang 2024, arXiv 2408.11029.

    Examples
    --------
    >>> rows = {"step": np.array([100.0, 200.0, 300.0]), "lr": np.array([1e-3, 1e-3, 5e-4]), "curve": np.zeros(3)}
    >>> Annealing().predict(np.array([2.0, 1.0, 0.5, 1.0]), rows).round(4).tolist()
    [6.4721, 4.582, 3.9995]
    """

    name = "annealing"
    title = "Learning-rate annealing law"
    equation = "L(s) = L0 + A S1^-alpha - C S2"
    source = "arXiv:2408.11029"
    inputs: tuple[str, ...] = ("step", "lr", "curve")
    positive: tuple[str, ...] = ("lr",)
    varying: tuple[str, ...] = ("step",)
    parameters: tuple[Parameter, ...] = (
        Parameter("L0", 0.0, 1e6, "loss after endless training at a constant rate"),
        Parameter("A", 1e-12, 1e12, "size of the part that falls with progress", "log"),
        Parameter("alpha", 0.0, 3.0, "exponent of progress"),
        Parameter("C", 0.0, 1e12, "loss gained per unit of annealing"),
    )
    linear: tuple[str, ...] = ("L0", "A", "C")

    def data(self, inputs: Inputs) -> dict[str, Any]:
        sums = schedules(inputs)
        return {"log_s1": np.log(sums.total), "s2": sums.momentum}

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"alpha": np.geomspace(0.05, 2.0, 30)}

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        return parameters["L0"] + parameters["A"] * np.exp(-parameters["alpha"] * data["log_s1"]) - parameters["C"] * data["s2"]


class AnnealingSized(Annealing):
    """The annealing law over models of several sizes: :math:`L = L_0 + A S_1^{-\\alpha} - C S_2 + B N^{-\\beta}`, N ``params``."""

    name = "annealing-sized"
    title = "Learning-rate annealing law over sizes"
    equation = "L(s, N) = L0 + A S1^-alpha - C S2 + B N^-beta"
    inputs = ("step", "lr", "curve", "params")
    positive = ("lr", "params")
    varying = ("step", "params")
    parameters = (
        *Annealing.parameters,
        Parameter("B", 1e-12, 1e40, "size of the part due to few parameters", "log"),
        Parameter("beta", 0.0, 3.0, "exponent in parameters"),
    )
    linear = ("L0", "A", "C", "B")

    def data(self, inputs: Inputs) -> dict[str, Any]:
        return {**super().data(inputs), "log_n": np.log(np.asarray(inputs["params"], dtype=float))}

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"alpha": np.geomspace(0.05, 2.0, 16), "beta": np.geomspace(0.03, 1.5, 14)}

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        return super().formula(parameters, data) + parameters["B"] * np.exp(-parameters["beta"] * data["log_n"])
