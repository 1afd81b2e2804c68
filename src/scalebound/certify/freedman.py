"""The fully empirical Freedman inequality of Finzi et al. 2025, kept for comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scalebound.certify.bound import Bound, check_confidence, log_weights, solve_freedman, sums_of
from scalebound.certify.grid import paper_grid


def freedman_bound(
    losses: np.ndarray,
    centres: float | np.ndarray | Sequence,
    *,
    range_: float | Sequence[float],
    code_bits: float,
    delta: float,
    grid: Sequence[float] | np.ndarray | None = None,
    weights: Sequence | np.ndarray | None = None,
) -> Bound:
    """Upper bound by a union over a grid of s.

    .. math:: \\frac1n\\sum_k\\big(E[X_k|F_{k-1}]-X_k\\big)\\le\\min_{s\\in K}\\Big[\\frac{\\Delta
        C_s}{s}+\\frac{\\Delta}{n}\\sum_k\\frac{v(sA_k)}{s}\\Big],
        \\quad v(x)=x-\\log(1+x),\\quad C_s=\\frac1n\\big(\\log\\tfrac{1}{w_s\\delta}+L\\log 2\\big)

    With uniform weights ``log(1/w_s) = log |K|``, which is the form of the paper; ``grid=None`` is the paper's, 1000 values. The paper
    takes the entropy of the model's own prediction as centre. Arguments, result and errors as in
    :func:`~scalebound.certify.product.product_bound`; ``complexity``
    is ``Delta C``.
    Cost: about 0.5 s for 10^6 tokens at 1000 values.

    Source: arXiv 2504.15208; docs/mathematics.md section 2.

    >>> freedman_bound(np.ones(10_000), 0.0, range_=8.0, code_bits=0, delta=0.05).value > 1
    True
    """
    budget = check_confidence(delta, code_bits)
    sums = sums_of(losses, centres, range_, paper_grid() if grid is None else grid)
    return solve_freedman(sums, log_weights(weights, *sums.log_sums.shape), budget)
