"""Observational scaling: predict a task from public models of many families through a few measures of capability.

Benchmarks of many models are summarised by principal components (missing entries filled by the components themselves, iterated); a
task's accuracy is a sigmoid of a linear combination of the components,

.. math:: y = h\\, \\sigma(w \\cdot PC + b) + c .

Models below a compute limit rarely show how high the sigmoid ends: fix ``h`` at 1 then, or the fit will put it anywhere.
Trained on models below a compute limit and tested above it, this often says when an "emergent" ability will appear; where compute alone
predicts better, the comparison shows that too.

Source
------
Ruan, Maddison and Hashimoto 2024, arXiv 2405.10938.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalebound.core.errors import InputError
from scalebound.scaling.laws.formula import BoundFormula, FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Inputs, Parameter
from scalebound.scaling.objective import Objective


@dataclass(frozen=True)
class Components:
    """Principal components of a table of benchmarks: ``scores`` (models, k), how to compute them for other models."""

    mean: np.ndarray  # (benchmarks,)
    directions: np.ndarray  # (k, benchmarks), each with a positive sum: more is better
    scores: np.ndarray
    explained: np.ndarray  # (k,) share of variance

    def project(self, table: np.ndarray) -> np.ndarray:
        """Scores of further models, (models, k); missing entries are left out of the projection."""
        known = np.isfinite(table)
        filled = np.where(known, table - self.mean, 0.0)
        out = np.empty((len(table), len(self.directions)))
        for row, mask in enumerate(known):
            basis = self.directions[:, mask]
            if mask.sum() < len(basis):
                raise InputError(f"model {row} has {mask.sum()} benchmarks", expected=f"at least {len(basis)}, the number of components")
            out[row] = np.linalg.lstsq(basis.T, filled[row, mask], rcond=None)[0]
        return out


def principal_components(table: np.ndarray, k: int = 3, *, rank: int = 1, rounds: int = 200) -> Components:
    """Principal components of benchmark scores (models, benchmarks) with NaN for missing entries.

    Missing entries are filled by the best approximation of ``rank`` components, repeated until they stop moving.

    Raises :class:`~scalebound.core.errors.InputError` for a benchmark nobody has, or more components than benchmarks.
    """
    table = np.asarray(table, dtype=float)
    known = np.isfinite(table)
    if not known.any(axis=0).all() or not known.any(axis=1).all():
        raise InputError("a model or a benchmark has no score at all", expected="at least one score in every row and column")
    if not 1 <= k <= min(table.shape):
        raise InputError(f"{k} components of {table.shape[1]} benchmarks and {table.shape[0]} models", expected="at most as many as either")
    filled = np.where(known, table, np.nanmean(table, axis=0))
    for _ in range(rounds):
        mean = filled.mean(axis=0)
        u, s, v = np.linalg.svd(filled - mean, full_matrices=False)
        new = np.where(known, table, mean + (u[:, :rank] * s[:rank]) @ v[:rank])
        moved = float(np.max(np.abs(new - filled)))
        filled = new
        if moved < 1e-9:
            break
    mean = filled.mean(axis=0)
    _, s, v = np.linalg.svd(filled - mean, full_matrices=False)
    directions = v[:k] * np.where(v[:k].sum(axis=1) < 0, -1.0, 1.0)[:, None]
    return Components(mean, directions, (filled - mean) @ directions.T, (s**2 / np.sum(s**2))[:k])


class Observational(FormulaLaw):
    """``acc = h sigmoid(w . x + b) + c`` in k quantities ``pc1 .. pck``; least squares.

    >>> law = Observational(2)
    >>> law.inputs, law.names
    (('pc1', 'pc2'), ('h', 'c', 'b', 'w1', 'w2'))
    """

    name = "observational"
    title = "Accuracy, sigmoid of principal components"
    source = "arXiv:2405.10938"
    target = "accuracy"
    residual = "plain"
    objective = "squares"
    positive = ()
    linear = ("h", "c")

    def __init__(self, k: int = 3) -> None:
        self.k = k
        self.inputs = tuple(f"pc{j}" for j in range(1, k + 1))
        self.equation = "acc = h sigmoid(w . pc + b) + c"
        self.parameters = (
            Parameter("h", 0.0, 1.0, "height of the sigmoid"),
            Parameter("c", 0.0, 1.0, "accuracy of a model without the capability"),
            Parameter("b", -1e3, 1e3, "offset"),
            *(Parameter(f"w{j}", -1e3, 1e3, f"weight of component {j}") for j in range(1, k + 1)),
        )

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"b": np.linspace(-8, 4, 9), "w1": np.geomspace(0.5, 30, 9), **{f"w{j}": np.zeros(1) for j in range(2, self.k + 1)}}

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        u = parameters["b"]
        for j in range(1, self.k + 1):
            u = u + parameters[f"w{j}"] * data[f"pc{j}"]
        return parameters["h"] * (0.5 + 0.5 * np.tanh(0.5 * u)) + parameters["c"]

    def bind(self, inputs: Inputs) -> BoundObservational:
        return BoundObservational(self, self.data(inputs), len(inputs["pc1"]))


class BoundObservational(BoundFormula):
    def starts(self, y: np.ndarray, weights: np.ndarray, objective: Objective) -> tuple[np.ndarray, tuple[int, ...]]:
        """The grid over offset and first weight, each with the other weights zero and as a linear regression of the logit gives them."""
        theta, _ = super().starts(y, weights, objective)
        span = max(float(y.max() - y.min()), 1e-6)
        share = np.clip((y - y.min() + 0.05 * span) / (1.1 * span), 0.02, 0.98)
        x = np.stack([np.ones_like(y), *(self.rows[name] for name in self.law.inputs)], axis=1)
        solved = np.linalg.lstsq(x, np.log(share / (1 - share)), rcond=None)[0]
        turned = theta.copy()
        turned[:, 4:] = solved[2:] * (theta[:, 3:4] / (solved[1] if abs(solved[1]) > 1e-9 else 1.0))
        direct = np.array([[span, float(max(y.min(), 0.0)), *solved]])
        low, high = self.law.limits()
        both = np.clip(np.concatenate([theta, turned, direct]), low, high)
        return both, (len(both),)
