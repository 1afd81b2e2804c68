"""Observational scaling: predict a task from public models of many families through a few measures of capability.

Benchmarks of many models are summarised by principal components (missing entries filled by the components themselves, iterated); a
task's accuracy is a sigmoid of a linear combination of the components,

.. math:: y = h\\, \\sigma(w \\cdot PC + b) + c .

Models below a compute limit rarely show how high the sigmoid ends: let it end at 1 then (``Observational(k, top=1.0)``, h = 1 - c, as
published), or the fit will put it anywhere.
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

ROUNDS = 1000
SETTLED = 1e-9


@dataclass(frozen=True)
class Components:
    """Principal components of a table of benchmarks: ``scores`` (models, k), and how to compute them for other models."""

    mean: np.ndarray  # (benchmarks,) of the filled table
    directions: np.ndarray  # (k, benchmarks), each with a positive sum: more is better
    scores: np.ndarray
    explained: np.ndarray  # (k,) share of variance
    unit: tuple[np.ndarray, np.ndarray]  # mean and standard deviation of the known scores: what missing ones are filled in
    filling: tuple[np.ndarray, np.ndarray]  # mean and directions (rank, benchmarks) in that unit
    limits: tuple[float, float]

    def project(self, table: np.ndarray) -> np.ndarray:
        """Scores of further models, (models, k); their missing entries are filled by the components of the models seen."""
        table = np.asarray(table, dtype=float)
        known = np.isfinite(table)
        rank = len(self.filling[1])
        if table.ndim != 2 or table.shape[1] != len(self.mean):
            raise InputError(f"the table has shape {table.shape}", expected=f"(models, {len(self.mean)})")
        if (short := np.flatnonzero(known.sum(axis=1) < rank)).size:
            raise InputError(f"model {short[0]} has {known[short[0]].sum()} benchmarks", expected=f"at least {rank}")
        centre, scale = self.unit
        middle, directions = self.filling
        standard = (table - centre) / scale
        filled = np.where(known, standard, middle)
        for _ in range(ROUNDS):
            new = np.where(known, standard, middle + (filled - middle) @ directions.T @ directions)
            moved = float(np.max(np.abs(new - filled), initial=0.0))
            filled = new
            if moved < SETTLED:
                break
        return (np.clip(filled * scale + centre, *self.limits) - self.mean) @ self.directions.T


def principal_components(table: np.ndarray, k: int = 3, *, rank: int = 1, limits: tuple[float, float] = (-np.inf, np.inf)) -> Components:
    """Principal components of benchmark scores (models, benchmarks) with NaN for missing entries.

    Missing entries are filled, in units of each benchmark's spread, by the best approximation of ``rank`` components, repeated until they
    stop moving, and cut at ``limits`` (0 and 1 for accuracies). The components are those of the filled scores in their own units. Compute
    them from the models a law is fitted to, and :meth:`Components.project` the others: a forecast must not see what it is tested on.

    Raises :class:`~scalebound.core.errors.InputError` for a benchmark nobody has, or more components than benchmarks.
    """
    table = np.asarray(table, dtype=float)
    known = np.isfinite(table)
    if not known.any(axis=0).all() or not known.any(axis=1).all():
        raise InputError("a model or a benchmark has no score at all", expected="at least one score in every row and column")
    if not 1 <= k <= min(table.shape):
        raise InputError(f"{k} components of {table.shape[1]} benchmarks and {table.shape[0]} models", expected="at most as many as either")
    centre, scale = np.nanmean(table, axis=0), np.nanstd(table, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = (table - centre) / scale
    filled = np.where(known, standard, 0.0)
    for _ in range(ROUNDS):
        middle = filled.mean(axis=0)
        v = np.linalg.svd(filled - middle, full_matrices=False)[2][:rank]
        new = np.where(known, standard, middle + (filled - middle) @ v.T @ v)
        moved = float(np.max(np.abs(new - filled)))
        filled = new
        if moved < SETTLED:
            break
    whole = np.clip(filled * scale + centre, *limits)
    mean = whole.mean(axis=0)
    _, s, w = np.linalg.svd(whole - mean, full_matrices=False)
    directions = w[:k] * np.where(w[:k].sum(axis=1) < 0, -1.0, 1.0)[:, None]
    return Components(mean, directions, (whole - mean) @ directions.T, (s**2 / np.sum(s**2))[:k], (centre, scale), (middle, v), limits)


class Observational(FormulaLaw):
    """``acc = h sigmoid(w . x + b) + c`` in k quantities ``pc1 .. pck``; least squares. With ``top`` the sigmoid ends there: h = top - c.

    >>> law = Observational(2)
    >>> law.inputs, law.names
    (('pc1', 'pc2'), ('h', 'c', 'b', 'w1', 'w2'))
    >>> Observational(1, top=1.0).names
    ('c', 'b', 'w1')
    """

    name = "observational"
    title = "Accuracy, sigmoid of principal components"
    source = "arXiv:2405.10938"
    target = "accuracy"
    residual = "plain"
    objective = "squares"
    positive = ()

    def __init__(self, k: int = 3, *, top: float | None = None) -> None:
        self.k, self.top = k, top
        self.inputs = tuple(f"pc{j}" for j in range(1, k + 1))
        height = "h" if top is None else f"({top:g} - c)"
        self.equation = f"acc = {height} sigmoid(w . pc + b) + c"
        self.linear = ("h", "c") if top is None else ("c",)
        self.parameters = (
            *((Parameter("h", 0.0, 1.0, "height of the sigmoid"),) if top is None else ()),
            # published with at most 0.2: a task nobody can do yet says little of its own floor
            Parameter("c", 0.0, 1.0 if top is None else 0.2, "accuracy of a model without the capability"),
            Parameter("b", -1e3, 1e3, "offset"),
            *(Parameter(f"w{j}", -1e3, 1e3, f"weight of component {j}") for j in range(1, k + 1)),
        )

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"b": np.linspace(-8, 4, 9), "w1": np.geomspace(0.5, 30, 9), **{f"w{j}": np.zeros(1) for j in range(2, self.k + 1)}}

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        u = parameters["b"]
        for j in range(1, self.k + 1):
            u = u + parameters[f"w{j}"] * data[f"pc{j}"]
        height = parameters["h"] if self.top is None else self.top - parameters["c"]
        return height * (0.5 + 0.5 * np.tanh(0.5 * u)) + parameters["c"]

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
        first = len(self.law.linear) + 1  # column of w1
        turned[:, first + 1 :] = solved[2:] * (theta[:, first : first + 1] / (solved[1] if abs(solved[1]) > 1e-9 else 1.0))
        floor = float(max(y.min(), 0.0))
        direct = np.array([[*((span, floor) if first == 3 else (floor,)), *solved]])
        low, high = self.law.limits()
        both = np.clip(np.concatenate([theta, turned, direct]), low, high)
        return both, (len(both),)
