"""Rounding that looks at what a matrix does: errors are passed on to the columns not yet rounded.

For a linear map with inputs x the damage of an error E = W - Q is a quadratic form, row by row:

.. math:: D = \\tfrac12 \\sum_i g_i\\, E_i H E_i^T,\\qquad H = \\mathbb{E}[x x^T],\\quad g_i = \\mathbb{E}[(\\partial\\ell/\\partial y_i)^2]

(second moments of the inputs and Fisher information of the outputs; their product is the Kronecker approximation of the loss's curvature).
Write ``H = U D U^T`` with U unit upper triangular and D diagonal. Then

.. math:: E_i H E_i^T = \\sum_j D_j\\, r_{ij}^2,\\qquad r_{ij} = E_{ij} + \\sum_{k<j} E_{ik} U_{kj}

so columns can be rounded one after another, each to what is best for ``w_ij + sum_{k<j} E_ik U_kj``. This is GPTQ (Frantar et al., arXiv
2210.17323) in the form of Chee et al., arXiv 2307.13304: one Cholesky factorization, no inverse.

Which integer. At given steps the exchange rate between damage and bits is ``ln(2)/6`` in squared steps a bit (the slope of the curve of
:mod:`scalebound.compress.allocation`), so of the integers near x the one with the least ``(x - q)^2 + penalty (ln 2 / 6) bits(q)`` is taken,
bits by :mod:`scalebound.compress.rates`. Penalty 0 is the nearest. A mask forces zeros: SparseGPT (Frantar and Alistarh, arXiv 2301.00774).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scalebound.compress.model import Coded, bfloat16
from scalebound.compress.rates import Rates, classes_of
from scalebound.compress.rounding import MAX_INTEGER, free_scales
from scalebound.core.errors import InputError, UsageError

DAMPING = 0.05  # of the mean of H's diagonal, added to it: second moments of a few thousand tokens are noisy
BLOCK, PART = 64, 8  # columns rounded before their errors are passed on in one matrix product: to all later ones, and to the rest of a block
EXCHANGE = math.log(2) / 6


@dataclass(frozen=True)
class Factor:
    """``H = U D U^T`` in the order in which columns are rounded: ``order`` (cols,), ``unit_upper`` (cols, cols), ``diagonal`` (cols,)."""

    order: np.ndarray
    unit_upper: np.ndarray
    diagonal: np.ndarray

    @property
    def column_diagonal(self) -> np.ndarray:
        """D in the order of the matrix's columns."""
        out = np.empty_like(self.diagonal)
        out[self.order] = self.diagonal
        return out

    @property
    def moments(self) -> np.ndarray:
        """The diagonal of the damped H, mean squares of the inputs, in the order of the matrix's columns."""
        out = np.empty_like(self.diagonal)
        out[self.order] = np.square(self.unit_upper, dtype=np.float64) @ self.diagonal
        return out


def factor(hessian: np.ndarray, damping: float = DAMPING) -> Factor:
    """Damp and factor second moments of inputs, the columns with the largest diagonal first ("act-order").

    Raises
    ------
    InputError
        Not square, not finite, a negative diagonal, or not positive definite after damping.

    >>> h = np.array([[2.0, 1.0], [1.0, 3.0]])
    >>> f = factor(h, 0.0)
    >>> np.allclose((f.unit_upper * f.diagonal) @ f.unit_upper.T, h[np.ix_(f.order, f.order)])
    True
    """
    hessian = np.asarray(hessian, dtype=np.float64)
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1] or not np.isfinite(hessian).all() or np.diagonal(hessian).min() < 0:
        raise InputError("second moments are not", where=f"a matrix of shape {hessian.shape}", expected="a finite, positive semi-definite square matrix")
    diagonal = np.diagonal(hessian)
    mean = float(diagonal.mean()) or 1.0
    order = np.argsort(-diagonal, kind="stable")
    turned = hessian[np.ix_(order[::-1], order[::-1])]  # turned around, so that the factor is upper triangular
    turned[np.diag_indices_from(turned)] += damping * mean
    try:
        upper = np.linalg.cholesky(turned)[::-1, ::-1]
    except np.linalg.LinAlgError:
        raise InputError("second moments are not positive definite", where=f"a matrix of shape {hessian.shape}", expected="more calibration tokens, or more damping") from None
    root = np.diagonal(upper)
    return Factor(order, np.ascontiguousarray(upper / root, dtype=np.float32), np.square(root))


def gptq(weight: np.ndarray, made: Factor, steps: tuple[np.ndarray, np.ndarray], *, penalty: float = 0.0, rates: Rates | None = None,
         keep: np.ndarray | None = None, sparsity: float = 0.0) -> Coded:  # fmt: skip
    """Round a matrix so that what it computes changes least.

    Parameters
    ----------
    weight : (rows, cols) float32
    made
        The factored second moments of its inputs.
    steps : (rows,), (cols,) bfloat16 patterns
        An entry's step is the product (:mod:`scalebound.compress.allocation`).
    penalty : >= 0
        Weight of the bits when an integer is chosen; 0 rounds to nearest. Above 0 the steps must be those of water-filling, under which
        damage and bits have one exchange rate everywhere.
    rates
        What bits are taken to be; it learns from the columns as they are rounded.
    keep : (rows, cols) bool, or None
        Where False, the integer is 0.
    sparsity : in [0, 1)
        Instead of a mask: this share becomes 0, the entries for which it costs least, ``r_ij^2 D_j``, decided for 64 columns at a time with
        what they should be by then. (The paper takes the same share of every block; in this order of columns the first blocks are the
        ones to be spared, so entries compete with those of all later columns as they stand.)

    Returns
    -------
    Coded

    Raises
    ------
    UsageError
        A step so small that an integer would leave 15 bits; sparsity out of range.

    Notes
    -----
    rows * cols^2 multiplications, nearly all in matrix products, and cols passes over a column.
    """
    if not 0 <= sparsity < 1:
        raise UsageError(f"sparsity is {sparsity}", expected="a share from 0 up to, not including, 1")
    rows, cols = weight.shape
    rates = Rates() if rates is None else rates
    row_patterns, col_patterns = steps[0], np.array(steps[1])
    col_steps, upper = bfloat16(col_patterns)[made.order], made.unit_upper
    # transposed, a column is contiguous; in units of the row's step
    columns = np.ascontiguousarray((weight / bfloat16(row_patterns)[:, None]).T[made.order])
    kept = None if keep is None else keep.T[made.order]
    errors = np.empty((cols, rows), dtype=np.float32)
    integers = np.empty((cols, rows), dtype=np.float32)
    zeros = 0
    for start in range(0, cols, BLOCK):
        stop = min(start + BLOCK, cols)
        targets = columns[start:stop] + upper[:start, start:stop].T @ errors[:start]
        kept_here = None if kept is None else kept[start:stop]
        if sparsity:
            kept_here = _worth(targets, columns[stop:], made.diagonal[start:], int(sparsity * weight.size) - zeros)
            zeros += int(np.count_nonzero(~kept_here))
        for first in range(start, stop, PART):
            last = min(first + PART, stop)
            part = targets[first - start : last - start]
            if first > start:
                part += upper[start:first, first:last].T @ errors[start:first]
            part /= col_steps[first:last, None]
            if penalty:
                classes = classes_of(np.abs(part).mean(axis=1))
                once, twice = _downward(penalty * EXCHANGE * rates.bits(classes))
            for j in range(first, last):
                ratio, k = part[j - first], j - first
                if k:
                    ratio += (upper[first:j, j] / col_steps[j]) @ errors[first:j]
                chosen = _choose(ratio, once[k], twice[k]) if penalty else np.rint(ratio)
                if kept_here is not None:
                    chosen *= kept_here[j - start]
                integers[j] = chosen
                np.subtract(columns[j], chosen * col_steps[j], out=errors[j])
            if penalty:
                rates.add(classes, integers[first:last].T)
    largest = float(np.abs(integers).max()) if integers.size else 0.0
    if largest > MAX_INTEGER:
        raise UsageError(f"these steps need integers up to {largest:,.0f}", expected=f"at most {MAX_INTEGER:,}", hint="ask for fewer bits")
    out = np.empty((rows, cols), dtype=np.int8 if largest < 127 else np.int16)
    out[:, made.order] = integers.T
    return Coded(out, free_scales(out, row_patterns), free_scales(out.T, col_patterns))


def damage(error: np.ndarray, made: Factor, row_weights: np.ndarray) -> float:
    """``1/2 sum_i g_i E_i H E_i^T`` in nats per token, H the damped second moments: what second order predicts of an error.

    >>> made = factor(np.diag([2.0, 8.0]), 0.0)
    >>> damage(np.array([[1.0, 0.5]]), made, np.array([3.0]))
    6.0
    """
    mixed = error[:, made.order] @ made.unit_upper
    return float(0.5 * np.einsum("i,ij,ij,j->", row_weights, mixed, mixed, made.diagonal))


def _worth(targets: np.ndarray, later: np.ndarray, diagonal: np.ndarray, zeros: int) -> np.ndarray:
    """(columns, rows): False where an entry of this block is among the ``zeros`` cheapest of all that are left."""
    cost = np.square(targets) * diagonal[: len(targets), None]
    every = np.concatenate([cost.ravel(), (np.square(later) * diagonal[len(targets) :, None]).ravel()])
    return cost > np.partition(every, zeros - 1)[zeros - 1] if zeros > 0 else np.ones_like(cost, dtype=bool)


def _choose(ratio: np.ndarray, once: np.ndarray, twice: np.ndarray) -> np.ndarray:
    """The integers of a column, given in units of their steps."""
    magnitude = np.abs(ratio)
    best = np.rint(magnitude)
    magnitude -= best
    index = np.minimum(best, len(once) - 1).astype(np.intp)
    best -= np.less(magnitude, once.take(index)).view(np.int8)
    best -= np.less(magnitude, twice.take(index)).view(np.int8)
    return np.copysign(best, ratio, out=best)


def _downward(price: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far below the nearest magnitude r an entry must be for r - 1 to be better than r, and for r - 2 to be better than both: where
    ``(d + 1)^2 + price[r - 1] < d^2 + price[r]``, which is linear in d. Further down is never cheaper at exchange rates that make sense.

    (columns, magnitudes), the last for all that are larger, in squared steps -> two times (columns, magnitudes + 2), float32
    """
    once, twice = np.full((2, len(price), price.shape[1] + 2), -1.0, dtype=np.float32)
    once[:, 1:-2] = (price[:, 1:] - price[:, :-1] - 1) / 2
    twice[:, 1:] = np.minimum(once[:, 1:], once[:, :-1] - 1)
    return once, twice
