"""What a fit minimises: a penalty of residuals, summed over rows.

.. math:: F(\\theta) = \\sum_i w_i\\, \\rho(r_i), \\qquad r_i = \\log y_i - \\log f(x_i;\\theta) \\;\\text{or}\\; y_i - f(x_i;\\theta)

``huber`` is the objective of Hoffmann et al. 2022 (arXiv 2203.15556): quadratic up to ``delta``, linear beyond. It is a *sum*: a mean
would be the same optimum with a number nobody can compare. ``absolute`` is its limit for delta -> 0 divided by delta.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scalebound.core.errors import UsageError

KINDS = ("huber", "squares", "absolute")
# `absolute` is minimised through Huber penalties of decreasing delta; at this width the objective differs from the sum of
# absolute residuals by less than rows * ABSOLUTE_DELTA / 2
ABSOLUTE_DELTA = 1e-8


@dataclass(frozen=True)
class Objective:
    """A penalty and the residual it is applied to.

    Parameters
    ----------
    kind : "huber", "squares" (sum of r^2, no factor one half) or "absolute" (sum of |r|)
    delta : > 0                width of Huber's quadratic part; unused by the other kinds
    residual : "log" or "plain"
    asymmetry : in (0, 1)      weight of rows above the curve is 2 * asymmetry, of rows below 2 * (1 - asymmetry); 0.5 is symmetric.
                               0.1 follows the lower envelope of noisy runs, the loss a well-tuned run would have.
    """

    kind: str = "huber"
    delta: float = 1e-3
    residual: str = "log"
    asymmetry: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"no objective named {self.kind!r}", expected=" or ".join(KINDS))
        if not (np.isfinite(self.delta) and self.delta > 0):
            raise UsageError(f"delta is {self.delta}", expected="a positive number")
        if self.residual not in ("log", "plain"):
            raise UsageError(f"residual is {self.residual!r}", expected="'log' or 'plain'")
        if not 0 < self.asymmetry < 1:
            raise UsageError(f"asymmetry is {self.asymmetry}", expected="a number strictly between 0 and 1")

    @property
    def scale(self) -> float:
        """What the reported value is multiplied by, relative to the penalty that is minimised."""
        return 2.0 if self.kind == "squares" else 1.0 / ABSOLUTE_DELTA if self.kind == "absolute" else 1.0

    @property
    def width(self) -> float:
        """The delta that is really minimised: infinite for squares."""
        return {"huber": self.delta, "squares": np.inf, "absolute": ABSOLUTE_DELTA}[self.kind]

    def smoothed(self, width: float) -> Objective:
        """The Huber penalty of another width, the other choices kept: steps of a continuation."""
        return replace(self, kind="huber", delta=width)

    def residuals(self, y: np.ndarray, f: np.ndarray) -> np.ndarray:
        """Residuals; NaN where a prediction is not positive and its logarithm is asked for."""
        if self.residual == "plain":
            return y - f
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(y / f)

    def _sides(self, r: np.ndarray) -> np.ndarray | float:
        if self.asymmetry == 0.5:
            return 1.0
        return np.where(r > 0, 2 * self.asymmetry, 2 * (1 - self.asymmetry))

    def penalty(self, r: np.ndarray) -> np.ndarray:
        """rho(r), elementwise; r of any shape."""
        width = self.width
        if np.isinf(width):
            return self._sides(r) * (0.5 * r * r)
        size = np.abs(r)
        inner = np.minimum(size, width)
        return self._sides(r) * inner * (size - 0.5 * inner)

    def slopes(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First derivative, second derivative, and first derivative divided by r (the weight of iterated least squares)."""
        width = self.width
        sides = self._sides(r)
        if np.isinf(width):
            one = np.ones_like(r) * sides
            return r * sides, one, one
        size = np.abs(r)
        first = np.clip(r, -width, width) * sides
        second = (size <= width) * 1.0 * sides
        return first, second, sides * (width / np.maximum(size, width))

    def total(self, y: np.ndarray, f: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Sum over the last axis of weights * rho; infinite where a prediction is invalid. Not multiplied by :attr:`scale`."""
        with np.errstate(over="ignore", invalid="ignore"):
            value = np.einsum(
                "...n,...n->...", self.penalty(self.residuals(y, f)), np.broadcast_to(weights, np.broadcast_shapes(f.shape, weights.shape))
            )
        return np.where(np.isfinite(value), value, np.inf)
