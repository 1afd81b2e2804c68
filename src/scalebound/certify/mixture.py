"""The looser form of the product martingale, kept because it is what the mixture method gives without the logarithm's concavity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scalebound.certify.bound import Bound, check_confidence, log_weights, mirrored, solve_mixture, sums_of
from scalebound.certify.grid import DEFAULT_GRID


def mixture_bound(
    losses: np.ndarray,
    centres: float | np.ndarray | Sequence,
    *,
    range_: float | Sequence[float],
    code_bits: float,
    delta: float,
    grid: Sequence[float] | np.ndarray = DEFAULT_GRID,
    weights: Sequence | np.ndarray | None = None,
) -> Bound:
    """Upper bound from a mixture of exponential supermartingales.

    .. math:: \\log\\sum_{j,s} w_{js}\\exp\\Big(n\\tfrac{s}{\\Delta_j}(m-\\bar
        Y_j)+\\sum_k\\log(1+sA_{jk})\\Big)\\le\\log(1/\\delta)+L\\log 2

    Never below :func:`~scalebound.certify.product.product_bound`; with uniform weights never above
    :func:`~scalebound.certify.freedman.freedman_bound` on the same grid.
    Arguments, result and errors as in :func:`~scalebound.certify.product.product_bound`; ``complexity`` is ``Delta C`` with ``C =
    (log(1/delta) + L log 2)/n``.

    Source: docs/mathematics.md section 3.

    >>> mixture_bound(np.ones(10_000), 0.0, range_=8.0, code_bits=0, delta=0.05).value > 1
    True
    """
    budget = check_confidence(delta, code_bits)
    sums = sums_of(losses, centres, range_, grid)
    return solve_mixture(sums, log_weights(weights, *sums.log_sums.shape), budget)


def mixture_lower_bound(
    losses: np.ndarray,
    centres: float | np.ndarray | Sequence,
    *,
    range_: float | Sequence[float],
    code_bits: float,
    delta: float,
    grid: Sequence[float] | np.ndarray = DEFAULT_GRID,
    weights: Sequence | np.ndarray | None = None,
) -> Bound:
    """The lower bound of the same form; see :func:`~scalebound.certify.product.product_lower_bound` for what ``range_`` means.

    >>> mixture_lower_bound(np.ones(10_000), 0.0, range_=8.0, code_bits=0, delta=0.05).value < 1
    True
    """
    return mixture_bound(*mirrored(losses, centres), range_=range_, code_bits=code_bits, delta=delta, grid=grid, weights=weights).negated()
