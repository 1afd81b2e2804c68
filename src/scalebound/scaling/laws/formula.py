"""Laws written as one formula on arrays; derivatives follow by :mod:`~scalebound.scaling.autodiff`, starts from linearity.

Most laws are linear in some parameters (coefficients) once the others are fixed. ``linear`` names those; the basis of the linear
inner problem is read off the formula itself: ``phi_j = f(coefficients = unit vector j) - f(0)``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.scaling.autodiff import Jet
from scalebound.scaling.laws.protocol import Bound, Curvature, Inputs, Law, profile_coefficients
from scalebound.scaling.objective import Objective

Parameters = Mapping[str, Any]


class FormulaLaw(Law):
    """A law given by ``formula(parameters, data)``; parameters are (B, 1) arrays or jets, data (n,) arrays."""

    linear: tuple[str, ...] = ()

    @abstractmethod
    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        """The target on rows, from natural parameters."""

    def data(self, inputs: Inputs) -> dict[str, Any]:
        """What depends on the rows alone, computed once."""
        return {name: np.asarray(inputs[name], dtype=float) for name in self.inputs}

    @abstractmethod
    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Values of every parameter that is not in ``linear``, for the global search."""

    def bind(self, inputs: Inputs) -> BoundFormula:
        data = self.data(inputs)
        return BoundFormula(self, data, len(inputs[self.inputs[0]]))


class BoundFormula(Bound):
    def __init__(self, law: FormulaLaw, data: dict[str, Any], n: int) -> None:
        self.law: FormulaLaw = law
        self.rows = data
        self.n = n

    def value(self, theta: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            natural = self.law.natural(theta)
            out = self.law.formula({name: natural[:, k, None] for k, name in enumerate(self.law.names)}, self.rows)
            return np.broadcast_to(out, (len(theta), self.n))

    def derivatives(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, Curvature]:
        B, p = theta.shape
        with np.errstate(all="ignore"):
            jets = {}
            for k, parameter in enumerate(self.law.parameters):
                jet = Jet.parameter(theta[:, k, None], k)
                jets[parameter.name] = np.exp(jet) if parameter.transform == "log" else jet
            out = self.law.formula(jets, self.rows)
        f = np.broadcast_to(out.v, (B, self.n))
        jacobian = np.zeros((B, p, self.n))
        for k, d in out.g.items():
            jacobian[:, k] = d

        def curvature(v: np.ndarray) -> np.ndarray:
            matrix = np.zeros((B, p, p))
            for (i, j), d in out.h.items():
                total = np.einsum("bn,bn->b", v, np.broadcast_to(d, (B, self.n)))
                matrix[:, i, j] = total
                matrix[:, j, i] = total
            return matrix

        return f, jacobian, curvature

    def starts(self, y: np.ndarray, weights: np.ndarray, objective: Objective) -> tuple[np.ndarray, tuple[int, ...]]:
        law = self.law
        grids = law.grid(self.rows)
        shape = tuple(len(values) for values in grids.values())
        mesh = np.meshgrid(*grids.values(), indexing="ij")
        nu = {name: axis.reshape(-1, 1) for name, axis in zip(grids, mesh, strict=True)}
        G = int(np.prod(shape)) if shape else 1
        natural = np.zeros((G, len(law.parameters)))
        for name, values in nu.items():
            natural[:, law.names.index(name)] = values[:, 0]
        low, high = law.limits()
        if law.linear:
            zero = dict.fromkeys(law.linear, np.zeros((G, 1)))
            basis = np.empty((G, len(law.linear), self.n))
            with np.errstate(all="ignore"):
                base = np.broadcast_to(law.formula({**nu, **zero}, self.rows), (G, self.n))
                for j, name in enumerate(law.linear):
                    basis[:, j] = law.formula({**nu, **zero, name: np.ones((G, 1))}, self.rows) - base
            basis = np.where(np.isfinite(basis), basis, 0.0)
            # columns of size one: a basis like N^-2 would otherwise be lost beside the constant
            size = np.sqrt((basis**2).mean(axis=2)) + 1e-300
            # a parameter that is at most zero enters with its sign turned
            sign = np.array([-1.0 if law.parameters[law.names.index(name)].high <= 0 else 1.0 for name in law.linear])
            lowest = np.array([_lowest(law, name) for name in law.linear])
            scaled = basis * (sign[:, None] / size[:, :, None])
            coefficients = profile_coefficients(scaled, y, weights, objective, lowest=lowest, offset=base)
            for j, name in enumerate(law.linear):
                k = law.names.index(name)
                value = coefficients[:, j] * sign[j] / size[:, j]
                if law.parameters[k].transform == "log":
                    value = np.maximum(value, 1e-12 * float(np.min(np.abs(y))) / size[:, j])
                natural[:, k] = value
        return np.clip(law.internal(natural), low, high), shape


def _lowest(law: FormulaLaw, name: str) -> float:
    parameter = law.parameters[law.names.index(name)]
    return 0.0 if parameter.low >= 0 or parameter.high <= 0 else -np.inf
