"""``kaplan``: the law of 2020, one power of a sum of powers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.scaling.laws.formula import BoundFormula, FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Inputs, Parameter, profile_coefficients
from scalebound.scaling.objective import Objective


class Kaplan(FormulaLaw):
    """Loss of N parameters and D tokens without an irreducible part.

    .. math:: L(N, D) = \\Big[(N_c/N)^{\\alpha_N/\\alpha_D} + D_c/D\\Big]^{\\alpha_D}

    For fixed exponents, :math:`L^{1/\\alpha_D}` is linear in :math:`N_c^{\\alpha_N/\\alpha_D}` and :math:`D_c`: that is the inner problem.

    Source
    ------
    Kaplan et al. 2020, arXiv 2001.08361, equation 1.5.

    Examples
    --------
    >>> row = {"params": np.array([1e9]), "tokens": np.array([2.3e10])}
    >>> round(float(Kaplan().predict(np.array([6.4e13, 1.8e13, 0.076, 0.103]), row)[0]), 3)
    2.367
    """

    name = "kaplan"
    title = "Kaplan law"
    equation = "L = [(Nc/N)^(aN/aD) + Dc/D]^aD"
    source = "arXiv:2001.08361"
    inputs = ("params", "tokens")
    cheap_refits = False
    polished = 4
    parameters = (
        Parameter("Nc", 1e-30, 1e80, "scale in parameters", "log"),
        Parameter("Dc", 1e-30, 1e80, "scale in tokens", "log"),
        Parameter("aN", 1e-3, 3.0, "exponent in parameters"),
        Parameter("aD", 1e-3, 3.0, "exponent in tokens"),
    )

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"aN": np.geomspace(0.02, 1.0, 14), "aD": np.geomspace(0.02, 1.0, 14)}

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        ratio = parameters["aN"] / parameters["aD"]
        few_params = np.exp(ratio * (np.log(parameters["Nc"]) - np.log(data["params"])))
        few_tokens = parameters["Dc"] / data["tokens"]
        return np.exp(parameters["aD"] * np.log(few_params + few_tokens))

    def bind(self, inputs: Inputs) -> BoundKaplan:
        return BoundKaplan(self, self.data(inputs), len(inputs["params"]))


class BoundKaplan(BoundFormula):
    def starts(self, y: np.ndarray, weights: np.ndarray, objective: Objective) -> tuple[np.ndarray, tuple[int, ...]]:
        grids = self.law.grid(self.rows)
        aN, aD = (axis.reshape(-1, 1) for axis in np.meshgrid(*grids.values(), indexing="ij"))
        log_n, log_d = np.log(self.rows["params"]), np.log(self.rows["tokens"])
        basis = np.stack([np.exp(-aN / aD * (log_n - log_n.mean())), np.exp(-(log_d - log_d.mean())) * np.ones_like(aN)], axis=1)
        # log S = log L / aD: residuals of S are those of L, magnified by 1/aD
        log_s = np.log(y) / aD
        shift = log_s.max(axis=1, keepdims=True)
        wide = objective.smoothed(objective.width / float(np.median(aD))) if np.isfinite(objective.width) else objective
        size = (basis**2).mean(axis=2) ** 0.5
        c = profile_coefficients(basis / size[:, :, None], np.exp(log_s - shift), weights, wide, lowest=np.full(2, 1e-12)) / size
        log_c = np.log(np.maximum(c, 1e-300)) + shift
        log_nc = log_c[:, 0] * (aD / aN)[:, 0] + log_n.mean()
        log_dc = log_c[:, 1] + log_d.mean()
        low, high = self.law.limits()
        return np.clip(np.stack([log_nc, log_dc, aN[:, 0], aD[:, 0]], axis=1), low, high), tuple(len(g) for g in grids.values())
