"""``critical-batch``: loss from size, steps and batch size; steps traded against examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalebound.scaling.autodiff import Jet
from scalebound.scaling.laws.formula import BoundFormula, FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Inputs, Parameter, profile_coefficients
from scalebound.scaling.objective import Objective


class CriticalBatch(FormulaLaw):
    """Loss of N parameters after S steps of B tokens each.

    .. math:: L = (N_c/N)^{a_N} + (S_c/S_{\\min})^{a_S}, \\quad S/S_{\\min} = 1 + B_{crit}/B, \\quad B_{crit} = B_*/L^{1/a_B}

    Columns ``params``, ``step``, ``batch_tokens``. The critical batch depends on the loss itself: the equation is solved for L (its
    left side minus its right side rises with L, so the solution is unique), and derivatives pass through the solution.

    Source
    ------
    Kaplan et al. 2020, arXiv 2001.08361, section 5; Su et al. 2024, arXiv 2403.06563; McCandlish et al. 2018, arXiv 1812.06162.

    Examples
    --------
    >>> row = {"params": np.array([1e8]), "step": np.array([1e4]), "batch_tokens": np.array([5e5])}
    >>> round(float(CriticalBatch().predict(np.array([6.5e13, 0.077, 2.1e3, 0.76, 2e8, 0.21]), row)[0]), 3)
    3.366
    """

    name = "critical-batch"
    title = "Steps, batch and size"
    equation = "L = (Nc/N)^aN + (Sc/Smin)^aS, S/Smin = 1 + Bcrit/B, Bcrit = Bstar / L^(1/aB)"
    source = "arXiv:2001.08361, arXiv:2403.06563"
    inputs = ("params", "step", "batch_tokens")
    varying = ("params", "step")
    cheap_refits = False
    polished = 5
    parameters = (
        Parameter("Nc", 1e-30, 1e80, "scale in parameters", "log"),
        Parameter("aN", 1e-3, 3.0, "exponent in parameters"),
        Parameter("Sc", 1e-30, 1e80, "scale in steps", "log"),
        Parameter("aS", 1e-3, 3.0, "exponent in steps"),
        Parameter("Bstar", 1.0, 1e20, "critical batch at a loss of one nat, tokens", "log"),
        Parameter("aB", 0.05, 5.0, "how the critical batch grows as the loss falls"),
    )

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {
            "aN": np.geomspace(0.03, 0.6, 6),
            "aS": np.geomspace(0.15, 1.5, 6),
            "Bstar": np.geomspace(1e5, 1e10, 6),
            "aB": np.array([0.15, 0.25, 0.5, 1.5]),
        }

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        def right(loss: Any, p: Parameters) -> Any:
            few = np.exp(p["aN"] * (np.log(p["Nc"]) - np.log(data["params"])))
            critical = p["Bstar"] * np.exp(-np.log(loss) / p["aB"])
            return few + np.exp(p["aS"] * (np.log(p["Sc"]) - np.log(data["step"]) + np.log1p(critical / data["batch_tokens"])))

        plain = {name: value.v if isinstance(value, Jet) else value for name, value in parameters.items()}
        loss = np.ones(np.broadcast_shapes(*(np.shape(v) for v in plain.values()), data["params"].shape))
        # damped fixed point in log L: the right side falls in L, so half steps contract
        for _ in range(60):
            loss = np.exp(0.5 * np.log(loss) + 0.5 * np.log(right(loss, plain)))
        if not any(isinstance(value, Jet) for value in parameters.values()):
            return _newton(loss, lambda x: right(x, plain))
        # each Newton step on jets makes one more order of derivatives exact, the value being exact already
        exact = _newton(loss, lambda x: right(x, plain))
        slope = _slope(exact, lambda x: right(x, plain))
        out: Any = exact
        for _ in range(3):
            out = out - (out - right(out, parameters)) / (1.0 - slope)
        return out

    def bind(self, inputs: Inputs) -> BoundCriticalBatch:
        return BoundCriticalBatch(self, self.data(inputs), len(inputs["params"]))


def _slope(loss: np.ndarray, right: Any) -> np.ndarray:
    jet = right(Jet.parameter(loss, 0))
    return jet.g[0]


def _newton(loss: np.ndarray, right: Any) -> np.ndarray:
    for _ in range(4):
        loss = np.maximum(loss - (loss - right(loss)) / (1.0 - _slope(loss, right)), 1e-9)
    return loss


class BoundCriticalBatch(BoundFormula):
    def starts(self, y: np.ndarray, weights: np.ndarray, objective: Objective) -> tuple[np.ndarray, tuple[int, ...]]:
        """With the measured loss inside Bcrit the law is linear in Nc^aN and Sc^aS."""
        grids = self.law.grid(self.rows)
        aN, aS, star, aB = (axis.reshape(-1, 1) for axis in np.meshgrid(*grids.values(), indexing="ij"))
        log_n, log_s, batch = np.log(self.rows["params"]), np.log(self.rows["step"]), self.rows["batch_tokens"]
        log_min = log_s - np.log1p(star * y ** (-1 / aB) / batch)
        cn, cs = float(log_n.mean()), float(log_s.mean())
        basis = np.stack([np.exp(-aN * (log_n - cn)), np.exp(-aS * (log_min - cs))], axis=1)
        size = np.sqrt((basis**2).mean(axis=2))
        c = profile_coefficients(basis / size[:, :, None], y, weights, objective, lowest=np.full(2, 1e-9)) / size
        log_nc, log_sc = np.log(c[:, :1]) / aN + cn, np.log(c[:, 1:]) / aS + cs
        theta = np.concatenate([log_nc, aN, log_sc, aS, np.log(star), aB], axis=1)
        low, high = self.law.limits()
        return np.clip(theta, low, high), tuple(len(g) for g in grids.values())


@dataclass(frozen=True)
class Tradeoff:
    """Steps and tokens to a loss at one batch size; ``(steps/min_steps - 1)(tokens/min_tokens - 1) = 1``."""

    steps: float
    tokens: float
    min_steps: float
    min_tokens: float
    critical_batch: float


def tradeoff(parameters: Mapping[str, float], *, params: float, loss: float, batch_tokens: float) -> Tradeoff:
    """Steps and tokens that reach ``loss`` with batches of ``batch_tokens``, under fitted :class:`CriticalBatch` parameters.

    Raises :class:`~scalebound.core.errors.InputError` when a model of this size never reaches the loss.
    """
    from scalebound.core.errors import InputError

    p = parameters
    rest = loss - (p["Nc"] / params) ** p["aN"]
    if rest <= 0:
        raise InputError(
            f"{params:.3g} parameters never reach a loss of {loss:g} under this law",
            expected=f"a loss above {(p['Nc'] / params) ** p['aN']:.4g}",
        )
    critical = p["Bstar"] / loss ** (1 / p["aB"])
    least = p["Sc"] * rest ** (-1 / p["aS"])
    steps = least * (1 + critical / batch_tokens)
    return Tradeoff(steps, steps * batch_tokens, least, least * critical, critical)


@dataclass(frozen=True)
class Hyperbola:
    """Steps to one loss against batch size: ``steps = min_steps (1 + critical_batch / B)``, with the spread of leave-one-out refits."""

    min_steps: float
    critical_batch: float
    low: float
    high: float
    misfit: float  # root mean square of log residuals


def steps_to_loss(batch_tokens: np.ndarray, steps: np.ndarray) -> Hyperbola:
    """Fit the trade-off of one target loss on measured steps, by least squares on logarithms.

    ``low`` and ``high`` are the critical batch give or take two jackknife standard errors of its logarithm.

    Raises :class:`~scalebound.core.errors.InputError` for fewer than three batch sizes.

    Examples
    --------
    >>> b = np.array([1e3, 4e3, 16e3])
    >>> found = steps_to_loss(b, 100 * (1 + 5e3 / b))
    >>> round(found.critical_batch), round(found.min_steps), found.misfit < 1e-6
    (5000, 100, True)
    """
    from scipy.optimize import minimize_scalar

    from scalebound.core.errors import InputError

    b, s = np.asarray(batch_tokens, dtype=float), np.asarray(steps, dtype=float)
    if len(np.unique(b)) < 3 or np.any(s <= 0) or np.any(b <= 0):
        raise InputError("a trade-off needs steps at several batch sizes", expected="at least three different batch sizes")

    def fitted(b: np.ndarray, s: np.ndarray) -> tuple[float, float, float]:
        def residuals(log_critical: float) -> np.ndarray:
            r = np.log(s) - np.log1p(np.exp(log_critical) / b)
            return r - r.mean()

        grid = np.linspace(np.log(b.min()) - 5, np.log(b.max()) + 5, 81)
        k = int(np.argmin([float((residuals(x) ** 2).sum()) for x in grid]))
        found = minimize_scalar(lambda x: float((residuals(x) ** 2).sum()), bounds=(grid[max(k - 1, 0)], grid[min(k + 1, 80)]), method="bounded", options={"xatol": 1e-10})
        x = float(found.x)
        return x, float(np.exp(np.mean(np.log(s) - np.log1p(np.exp(x) / b)))), float(np.sqrt(np.mean(residuals(x) ** 2)))

    x, least, misfit = fitted(b, s)
    n = len(b)
    left = np.array([fitted(np.delete(b, k), np.delete(s, k))[0] for k in range(n)]) if n > 3 else np.full(n, np.nan)
    error = float(np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()))
    low, high = (float(np.exp(x - 2 * error)), float(np.exp(x + 2 * error))) if np.isfinite(error) else (float("nan"), float("nan"))
    return Hyperbola(least, float(np.exp(x)), low, high, misfit)
