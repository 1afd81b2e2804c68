"""``repetition``: loss when the same data are seen more than once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.scaling.laws.formula import BoundFormula, FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Inputs, Parameter, profile_coefficients
from scalebound.scaling.objective import Objective


class Repetition(FormulaLaw):
    """The data-constrained law: repeated tokens and excess parameters decay in worth.

    .. math::
        L = E + A/N'^{\\alpha} + B/D'^{\\beta}, \\quad
        D' = U + U R_D^* (1 - e^{-R_D/R_D^*}),\\; R_D = D/U - 1, \\quad
        N' = U_N + U_N R_N^* (1 - e^{-R_N/R_N^*}),\\; R_N = N/U_N - 1

    with U ``unique_tokens`` and :math:`U_N = \\min(N, N^*(U))`, the compute-optimal size for U tokens under the law without
    repetition: :math:`N^*(U) = G (G U)^{\\beta/\\alpha}`, :math:`G = (\\alpha A/(\\beta B))^{1/(\\alpha+\\beta)}`.
    A repeated token is worth about as much as a new one for R_D* repetitions, and little after.

    Source
    ------
    Muennighoff et al. 2023, arXiv 2305.16264, equations 5 to 7.

    Examples
    --------
    >>> published = np.array([np.exp(0.6254804), np.exp(6.255414), np.exp(7.3049974), 0.3526596, 0.3526596, 15.387756, 5.309743])
    >>> row = {"params": np.array([6.34e9]), "tokens": np.array([242e9]), "unique_tokens": np.array([25e9])}
    >>> round(float(Repetition().predict(published, row)[0]), 9)
    2.225644089
    """

    name = "repetition"
    title = "Data-constrained law"
    equation = "L = E + A/N'^alpha + B/D'^beta; D' = U + U RD (1 - exp(-(D/U - 1)/RD)), N' likewise with RN"
    source = "arXiv:2305.16264"
    inputs = ("params", "tokens", "unique_tokens")
    varying = ("params", "tokens")
    parameters = (
        Parameter("E", 0.0, 1e6, "irreducible loss"),
        Parameter("A", 1e-12, 1e40, "size of the part due to few parameters", "log"),
        Parameter("B", 1e-12, 1e40, "size of the part due to few tokens", "log"),
        Parameter("alpha", 0.01, 3.0, "exponent in parameters"),
        Parameter("beta", 0.01, 3.0, "exponent in tokens"),
        Parameter("RD", 1e-2, 1e4, "repetitions after which data have lost most of their worth", "log"),
        Parameter("RN", 1e-2, 1e4, "the same for parameters beyond what the unique data need", "log"),
    )

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        exponents = np.geomspace(0.08, 0.9, 5)
        return {
            "alpha": exponents,
            "beta": exponents,
            "RD": np.array([1.0, 4.0, 15.0, 60.0, 500.0]),
            "RN": np.array([1.0, 5.0, 25.0, 500.0]),
        }

    def data(self, inputs: Inputs) -> dict[str, Any]:
        out = super().data(inputs)
        # a run shorter than its unique data has not repeated anything
        out["unique_tokens"] = np.minimum(out["unique_tokens"], out["tokens"])
        out["repeats"] = out["tokens"] / out["unique_tokens"] - 1.0
        return out

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        A, B, alpha, beta = (parameters[name] for name in ("A", "B", "alpha", "beta"))
        unique = data["unique_tokens"]
        log_g = np.log(alpha * A / (beta * B)) / (alpha + beta)
        base = np.minimum(data["params"], np.exp(log_g + beta / alpha * (log_g + np.log(unique))))
        n = _worth(base, data["params"] / base - 1.0, parameters["RN"])
        d = _worth(unique, data["repeats"], parameters["RD"])
        return parameters["E"] + A * np.exp(-alpha * np.log(n)) + B * np.exp(-beta * np.log(d))

    def bind(self, inputs: Inputs) -> BoundRepetition:
        return BoundRepetition(self, self.data(inputs), len(inputs["params"]))


def _worth(unique: Any, repeats: Any, half: Any) -> Any:
    return unique + unique * half * (-np.expm1(-repeats / half))


class BoundRepetition(BoundFormula):
    def starts(self, y: np.ndarray, weights: np.ndarray, objective: Objective) -> tuple[np.ndarray, tuple[int, ...]]:
        """Two passes: coefficients with N' = N tell the compute-optimal size, which gives N' for the second."""
        grids = self.law.grid(self.rows)
        shape = tuple(len(values) for values in grids.values())
        alpha, beta, rd, rn = (axis.reshape(-1, 1) for axis in np.meshgrid(*grids.values(), indexing="ij"))
        N, U, repeats = self.rows["params"], self.rows["unique_tokens"], self.rows["repeats"]
        d = np.log(_worth(U, repeats, rd))
        n = np.log(N) * np.ones_like(alpha)
        centre_n, centre_d = float(np.mean(np.log(N))), float(np.mean(np.log(U)))
        for _ in range(2):
            basis = np.stack([np.ones_like(n), np.exp(-alpha * (n - centre_n)), np.exp(-beta * (d - centre_d))], axis=1)
            c = profile_coefficients(basis, y, weights, objective, lowest=np.array([0.0, 1e-9, 1e-9]))
            log_a = np.log(c[:, 1:2]) + alpha * centre_n
            log_b = np.log(c[:, 2:3]) + beta * centre_d
            log_g = (np.log(alpha / beta) + log_a - log_b) / (alpha + beta)
            base = np.minimum(N, np.exp(np.clip(log_g + beta / alpha * (log_g + np.log(U)), 0.0, 80.0)))
            n = np.log(_worth(base, N / base - 1.0, rn))
        theta = np.concatenate([c[:, :1], log_a, log_b, alpha, beta, np.log(rd), np.log(rn)], axis=1)
        low, high = self.law.limits()
        return np.clip(theta, low, high), shape
