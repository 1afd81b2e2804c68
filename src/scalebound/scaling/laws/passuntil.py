"""``passuntil``: the pass rate of a task long before it is visible in a thousand samples, and a test for emergence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalebound.core.errors import InputError
from scalebound.scaling.laws.formula import BoundFormula, FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Inputs, Parameter
from scalebound.scaling.objective import Objective


class PassUntil(FormulaLaw):
    """Probability that one sample passes, against size.

    .. math:: \\mathrm{PU}(N) = \\exp(-c N^{-\\alpha}), \\qquad \\log(-\\log \\mathrm{PU}) = \\log c - \\alpha \\log N

    Column ``params`` (or another size, ``passuntil:flops``), target ``pass_rate`` in (0, 1]. Residuals are of log PU.

    Source
    ------
    Hu et al. 2023, arXiv 2310.03262.

    Examples
    --------
    >>> round(float(PassUntil().predict(np.array([1e3, 0.3]), {"params": np.array([1e9])})[0]), 4)
    0.136
    """

    name = "passuntil"
    title = "Task scaling law of the pass rate"
    equation = "PU = exp(-c N^-alpha)"
    source = "arXiv:2310.03262"
    target = "pass_rate"
    parameters = (
        Parameter("c", 1e-12, 1e60, "minus log of the pass rate at N = 1", "log"),
        Parameter("alpha", 0.0, 5.0, "exponent"),
    )

    def __init__(self, x: str = "params") -> None:
        self.inputs = (x,)

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"alpha": np.geomspace(0.01, 2.0, 40)}

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        return np.exp(-np.exp(np.log(parameters["c"]) - parameters["alpha"] * np.log(data[self.inputs[0]])))

    def bind(self, inputs: Inputs) -> BoundPassUntil:
        return BoundPassUntil(self, self.data(inputs), len(inputs[self.inputs[0]]))


class BoundPassUntil(BoundFormula):
    def starts(self, y: np.ndarray, weights: np.ndarray, objective: Objective) -> tuple[np.ndarray, tuple[int, ...]]:
        """For a fixed exponent -log PU is proportional to N^-alpha; the constant is the weighted ratio of the two."""
        alpha = self.law.grid(self.rows)["alpha"]
        log_x = np.log(self.rows[self.law.inputs[0]])
        shrink = np.exp(-alpha[:, None] * (log_x - log_x.mean()))
        hardness = np.maximum(-np.log(y), 1e-9)
        c = (weights * hardness * shrink).sum(axis=1) / (weights * shrink**2).sum(axis=1)
        theta = np.stack([np.log(c) + alpha * log_x.mean(), alpha], axis=1)
        low, high = self.law.limits()
        return np.clip(theta, low, high), (len(alpha),)


def pass_until(draws: np.ndarray, passes: int) -> np.ndarray:
    """Unbiased estimates of pass rates from sampling until ``passes`` samples have passed.

    .. math:: \\hat p = (r - 1)/(K - 1), \\qquad E[\\hat p] = p

    with K the number of samples drawn (the r-th pass included); r >= 2. K/r inverted, the obvious estimate, is biased upwards.

    Raises
    ------
    InputError      r below 2, or fewer draws than passes

    Examples
    --------
    >>> pass_until(np.array([101, 1001]), 2).tolist()
    [0.01, 0.001]
    """
    draws = np.asarray(draws, dtype=float)
    if passes < 2:
        raise InputError(f"{passes} passes", expected="at least 2: with one pass no unbiased estimate exists")
    if np.any(draws < passes):
        k = int(np.flatnonzero(draws < passes)[0])
        raise InputError(f"entry {k} has {draws[k]:g} draws for {passes} passes", expected="at least as many draws as passes")
    return (passes - 1) / (draws - 1)


@dataclass(frozen=True)
class Departure:
    """Whether larger models depart from the line of the smaller ones."""

    p_value: float
    direction: str  # "above", "below" or "none"
    verdict: str


def departure(fit: Any, params: np.ndarray, pass_rate: np.ndarray, *, level: float = 0.95) -> Departure:
    """Test for emergence: do these pass rates depart from what a :class:`PassUntil` fit of smaller models predicts?

    Each rate's place among the predictive samples (noise included) is a p-value; the smallest, times their number, decides
    (Bonferroni), two-sided.
    """
    from scalebound.scaling.forecast import forecast

    seen = forecast(fit, {fit.inputs[0]: params})
    if seen.samples is None:
        raise InputError("the fit has no bootstrap draws", expected="a fit with at least 20 draws")
    rates = np.asarray(pass_rate, dtype=float)
    count = len(seen.samples)
    above = (1 + np.sum(seen.samples >= rates, axis=0)) / (1 + count)
    below = (1 + np.sum(seen.samples <= rates, axis=0)) / (1 + count)
    one = np.minimum(above, below)
    k = int(np.argmin(one))
    p = float(min(1.0, 2 * len(rates) * one[k]))
    if p >= 1 - level:
        return Departure(p, "none", f"no departure from the line is established (p = {p:.2g})")
    direction = "above" if above[k] < below[k] else "below"
    return Departure(
        p, direction, f"the rate at {fit.inputs[0]} = {params[k]:.3g} lies {direction} what smaller models predict (p = {p:.2g})"
    )
