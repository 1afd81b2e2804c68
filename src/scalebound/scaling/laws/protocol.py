"""What a law is: named parameters with limits, the columns it reads, and its value and exact derivatives on rows.

A :class:`Law` is bound to rows (:meth:`Law.bind`), which computes once what depends on the data alone (logarithms, cumulative
learning rates). The :class:`Bound` law evaluates many parameter vectors at a time: everything has a leading batch axis B.

Fits move in *internal* coordinates: a parameter whose size is unknown by decades (``transform="log"``) is its logarithm there.

Shapes: B batch (starts, resamples), n rows, p parameters, G grid points, q coefficients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from scalebound.scaling.objective import Objective

Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Parameter:
    """One parameter: its letter in the literature, its limits in natural units, what it means."""

    name: str
    low: float
    high: float
    meaning: str
    transform: str = "identity"

    def internal(self, value: np.ndarray | float) -> np.ndarray:
        return np.log(value) if self.transform == "log" else np.asarray(value, dtype=float)

    def natural(self, value: np.ndarray | float) -> np.ndarray:
        return np.exp(value) if self.transform == "log" else np.asarray(value, dtype=float)


class Law(ABC):
    """Base of every law. Subclasses set the class attributes and write ``bind``."""

    name: str
    title: str
    equation: str
    source: str
    inputs: tuple[str, ...]
    target: str = "loss"
    residual: str = "log"
    objective: str = "huber"
    parameters: tuple[Parameter, ...]
    # False: an evaluation takes milliseconds and thousands of refits are replaced by single Newton steps
    cheap_refits: bool = True
    # the most bootstrap refits worth their time
    most_refits: int = 1_000_000
    # how many starts of each set are carried to their minimum
    polished: int = 8
    # inputs that must be positive and take at least two values for the parameters to mean anything
    positive: tuple[str, ...] | None = None
    varying: tuple[str, ...] | None = None

    @abstractmethod
    def bind(self, inputs: Inputs) -> Bound:
        """The law on the given rows."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def internal(self, natural: np.ndarray) -> np.ndarray:
        """(..., p) natural values to internal coordinates."""
        natural = np.asarray(natural, dtype=float)
        with np.errstate(divide="ignore"):
            return np.stack([q.internal(natural[..., k]) for k, q in enumerate(self.parameters)], axis=-1)

    def natural(self, internal: np.ndarray) -> np.ndarray:
        """(..., p) internal coordinates to natural values."""
        with np.errstate(over="ignore"):
            return np.stack([q.natural(internal[..., k]) for k, q in enumerate(self.parameters)], axis=-1)

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limits in internal coordinates, each (p,)."""
        with np.errstate(divide="ignore"):
            low = np.array([float(q.internal(q.low)) for q in self.parameters])
            high = np.array([float(q.internal(q.high)) for q in self.parameters])
        return low, high

    def predict(self, natural: np.ndarray, inputs: Inputs) -> np.ndarray:
        """Values on rows: (p,) gives (n,), (B, p) gives (B, n)."""
        natural = np.asarray(natural, dtype=float)
        values = self.bind(inputs).value(self.internal(np.atleast_2d(natural)))
        return values if natural.ndim > 1 else values[0]


Curvature = Callable[[np.ndarray], np.ndarray]


class Bound(ABC):
    """A law on fixed rows."""

    law: Law
    n: int

    @abstractmethod
    def value(self, theta: np.ndarray) -> np.ndarray:
        """(B, p) internal coordinates to predictions (B, n)."""

    @abstractmethod
    def derivatives(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, Curvature]:
        """Predictions f (B, n), Jacobian (B, p, n), and a function v (B, n) -> sum_i v_i * Hessian of f_i, (B, p, p)."""

    @abstractmethod
    def starts(self, y: np.ndarray, weights: np.ndarray, objective: Objective) -> tuple[np.ndarray, tuple[int, ...]]:
        """Parameter vectors (G, p) covering the non-linear parameters, and the shape of their grid (its product is G).

        For each grid point the remaining parameters solve the (almost) linear inner problem.
        """

    def settled(self, theta: np.ndarray, y: np.ndarray, weights: np.ndarray, objective: Objective) -> np.ndarray:
        """``theta`` (B, p) with the inner problem solved at its non-linear parameters; as it is where a law has no cheap way to do so."""
        return theta


def profile_coefficients(
    basis: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    objective: Objective,
    *,
    lowest: np.ndarray,
    offset: np.ndarray | float = 0.0,
    rounds: int = 5,
) -> np.ndarray:
    """Best coefficients for fixed non-linear parameters: (G, q) from a basis (G, q, n).

    Iterated weighted least squares on the linearised residual: ``log y - log f`` is ``(y - f)/y`` to first order, and dividing the
    squared residual by its size turns squares into Huber's penalty. Coefficients below ``lowest`` (q,) are held there
    (``-inf``: free) and the others solved again. ``offset`` (G, n) is the part of the law without coefficients.
    """
    G, q, n = basis.shape
    y = np.broadcast_to(y, (G, n))
    scale = 1.0 / (y * y) if objective.residual == "log" else np.ones_like(y)
    coefficients: np.ndarray = np.zeros((G, q))
    bounded = np.isfinite(lowest)
    floor = np.where(bounded, lowest, 0.0)
    irls: np.ndarray | float = 1.0
    width = objective.width
    rounds = 1 if np.isinf(width) and objective.asymmetry == 0.5 else rounds
    for round_ in range(rounds):
        heft = weights * scale * irls
        weighted = basis * heft[:, None, :]
        gram = weighted @ basis.transpose(0, 2, 1)
        moment = (weighted @ (y - offset)[:, :, None])[:, :, 0]
        trace = np.einsum("gqq->gq", gram)
        gram = gram + np.eye(q) * (1e-12 * trace + 1e-300)[:, None, :]
        held = np.zeros((G, q), dtype=bool)
        for _ in range(q):
            free = ~held
            reduced = np.where(free[:, :, None] & free[:, None, :], gram, 0.0) + np.eye(q) * held[:, None, :]
            right = np.where(free, moment - np.einsum("gij,gj->gi", gram, np.where(held, floor, 0.0)), floor)
            coefficients = np.linalg.solve(reduced, right[..., None])[..., 0]
            below = free & bounded & (coefficients < lowest)
            if not below.any():
                break
            held |= below
        coefficients = np.where(held, floor, coefficients)
        if round_ == rounds - 1:
            break
        fitted = offset + (coefficients[:, None, :] @ basis)[:, 0]
        residuals = (y - fitted) / y if objective.residual == "log" else y - fitted
        # start wide: squares first, then towards the asked width, or the first few rows met would decide
        spread = np.median(np.abs(residuals), axis=1, keepdims=True)
        now = np.maximum(width, spread * 0.5 ** (round_ + 1))
        irls = objective.smoothed(1.0).slopes(residuals / now)[2]
    return coefficients
