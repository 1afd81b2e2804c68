"""Sums of power laws: the family of ``power``, ``chinchilla`` and ``overtraining``, with derivatives written out.

.. math:: f(x;\\theta) = E + \\sum_j \\exp(a_j - \\nu_{k(j)} s_j(x))

``s_j`` is a fixed function of the row (``log N``), ``a_j`` the logarithm of a coefficient, ``nu`` the exponents. A law of the family
names its terms; value, Jacobian, Hessian and starts follow from that list. With :math:`t_j = \\exp(a_j - \\nu s_j)`:
:math:`\\partial f/\\partial a_j = t_j`, :math:`\\partial f/\\partial\\nu_k = -\\sum_j s_j t_j`,
:math:`\\partial^2 f/\\partial a_j\\partial\\nu = -s_j t_j`, :math:`\\partial^2 f/\\partial\\nu^2 = \\sum_j s_j^2 t_j`.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from scalebound.scaling.laws.protocol import Bound, Curvature, Inputs, Law, profile_coefficients
from scalebound.scaling.objective import Objective

TINY = 1e-12  # the smallest share of the data's scale a start gives to a coefficient that wants to be zero


class PowerSum(Law):
    """A law ``E + sum_j exp(a_j - nu s_j)``; parameters in the order E, coefficients, exponents."""

    # position among the exponents that each term uses
    term_exponents: tuple[int, ...]
    # grid of each exponent for the global search
    grids: tuple[np.ndarray, ...]

    @abstractmethod
    def term_inputs(self, inputs: Inputs) -> list[np.ndarray]:
        """The s_j of every term, each (n,)."""

    def bind(self, inputs: Inputs) -> Bound:
        return BoundPowerSum(self, np.stack(self.term_inputs(inputs)))


class BoundPowerSum(Bound):
    def __init__(self, law: PowerSum, s: np.ndarray) -> None:
        self.law: PowerSum = law
        self.s = s  # (terms, n)
        self.n = s.shape[1]
        self.q = s.shape[0]
        self.k = np.array(law.term_exponents) + 1 + self.q  # column of theta with the exponent of each term
        # sum_i v_i t_ij (1, s_ij, s_ij^2) for a term is one product with this
        self.moments = np.stack([np.ones_like(s), s, s * s], axis=-1)  # (terms, n, 3)

    def _terms(self, theta: np.ndarray) -> list[np.ndarray]:
        with np.errstate(over="ignore"):
            return [np.exp(theta[:, 1 + j, None] - theta[:, self.k[j], None] * self.s[j]) for j in range(self.q)]

    def value(self, theta: np.ndarray) -> np.ndarray:
        terms = self._terms(theta)
        total = theta[:, :1] + terms[0]
        for term in terms[1:]:
            total += term
        return total

    def derivatives(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, Curvature]:
        terms = self._terms(theta)
        B, p = theta.shape
        jacobian = np.zeros((B, p, self.n))
        jacobian[:, 0] = 1.0
        f = np.broadcast_to(theta[:, :1], (B, self.n)).copy()
        for j, term in enumerate(terms):
            f += term
            jacobian[:, 1 + j] = term
            jacobian[:, self.k[j]] -= self.s[j] * term

        def curvature(v: np.ndarray) -> np.ndarray:
            out = np.zeros((B, p, p))
            for j, term in enumerate(terms):
                zero, one, two = ((v * term) @ self.moments[j]).T
                a, k = 1 + j, self.k[j]
                out[:, a, a] += zero
                out[:, a, k] -= one
                out[:, k, a] -= one
                out[:, k, k] += two
            return out

        return f, jacobian, curvature

    def starts(self, y: np.ndarray, weights: np.ndarray, objective: Objective) -> tuple[np.ndarray, tuple[int, ...]]:
        grids = self.law.grids
        shape = tuple(len(grid) for grid in grids)
        nu = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, len(grids))
        return self._solved(nu, y, weights, objective, rounds=5), shape

    def settled(self, theta: np.ndarray, y: np.ndarray, weights: np.ndarray, objective: Objective) -> np.ndarray:
        return self._solved(theta[:, 1 + self.q :], y, weights, objective, rounds=1)

    def _solved(self, nu: np.ndarray, y: np.ndarray, weights: np.ndarray, objective: Objective, *, rounds: int) -> np.ndarray:
        """Parameter vectors (G, p) for exponents (G, k): E and the coefficients solve the linear problem."""
        exponents = nu[:, np.array(self.law.term_exponents)]  # (G, terms)
        centre = self.s.mean(axis=1)
        basis = np.ones((len(nu), 1 + self.q, self.n))
        np.exp(-exponents[:, :, None] * (self.s - centre[:, None]), out=basis[:, 1:])
        smallest = TINY * float(np.min(np.abs(y)))
        lowest = np.concatenate([[0.0], np.full(self.q, smallest)])
        coefficients = profile_coefficients(basis, y, weights, objective, lowest=lowest, rounds=rounds)
        low, high = self.law.limits()
        a = np.log(np.maximum(coefficients[:, 1:], smallest)) + exponents * centre
        return np.clip(np.concatenate([coefficients[:, :1], a, nu], axis=1), low, high)
